// Peal's all-reduce beside MPI_Allreduce, interleaved so that both meet the same machine:
//   mpirun -np 2 build/comm_bench [shared|mpi]
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/tree.h"

namespace {

using namespace peal;

double seconds_of(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Times {
  std::vector<double> seconds;

  double at(double quantile) {
    std::sort(seconds.begin(), seconds.end());
    return seconds[static_cast<std::size_t>(quantile * static_cast<double>(seconds.size() - 1))];
  }
};

void measure(Communicator& comm, std::int64_t count) {
  const int rounds = count > 1'000'000 ? 40 : 300;
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(float);
  const Buffer shared = comm.allocate(bytes), own(bytes), other(bytes);
  const Tensor x{shared.data(), {count}};
  const Tensor partials[] = {x};
  const int n = comm.world_size();
  Stream s;
  Times tree, ring, mpi;
  for (int i = 0; i < rounds; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    tree.seconds.push_back(
        seconds_of([&] { comm.wait(s, comm.all_reduce_tree(s, "tree", n, partials, x)); }));
    MPI_Barrier(MPI_COMM_WORLD);
    ring.seconds.push_back(
        seconds_of([&] { comm.wait(s, comm.all_reduce(s, "ring", x, x, ReduceOp::sum)); }));
    MPI_Barrier(MPI_COMM_WORLD);
    mpi.seconds.push_back(seconds_of([&] {
      MPI_Allreduce(own.data(), other.data(), static_cast<int>(count), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
    }));
  }
  if (comm.rank() != 0) return;
  const double bus = 2.0 * (n - 1) / n * static_cast<double>(bytes) / tree.at(0.5) * 1e-9;
  std::printf("%10zu  %9.1f %9.1f  %9.1f %9.1f  %9.1f %9.1f  %7.2f\n", bytes, tree.at(0.5) * 1e6,
              tree.at(0.1) * 1e6, ring.at(0.5) * 1e6, ring.at(0.1) * 1e6, mpi.at(0.5) * 1e6,
              mpi.at(0.1) * 1e6, bus);
}

}  // namespace

int main(int count, char** arguments) {
  MpiSession session;
  const bool shared = count < 2 || std::string(arguments[1]) != "mpi";
  const auto comm = make_host_communicator({shared, 60});
  if (comm->rank() == 0) {
    std::printf("%d ranks; microseconds, median and tenth percentile; busbw of the tree in GB/s\n",
                comm->world_size());
    std::printf("%10s  %19s  %19s  %19s  %7s\n", "bytes", "ordered tree", "ring", "MPI_Allreduce",
                "busbw");
  }
  for (const std::int64_t elements : {1, 256, 4096, 65'536, 692'000, 4'194'304}) {
    measure(*comm, elements);
  }
  return 0;
}
