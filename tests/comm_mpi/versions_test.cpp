// A rank that makes a communicator and tells in its exit code how that went: 0 it was made and
// works, 4 (numeric) ranks are of different versions, and then standard error has the message; run
// by versions_test.py. It initialises MPI itself, as an embedding program does.
#include <mpi.h>

#include <cstdio>

#include "comm/mpi_comm.h"
#include "core/base/error.h"

namespace {

int make_and_use() {
  try {
    const auto comm = peal::make_communicator(MPI_COMM_WORLD);
    float one = 1, sum = 0;
    peal::Stream s;
    comm->wait(s, comm->all_reduce(s, "ranks", {&one, {1}}, {&sum, {1}}, peal::ReduceOp::sum));
    return sum == static_cast<float>(comm->world_size()) ? 0 : 1;
  } catch (const peal::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return exit_code(error.kind());
  }
}

}  // namespace

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  const int code = make_and_use();
  // Every rank says its code before mpirun ends them all for the first.
  std::printf("code %d\n", code);
  std::fflush(nullptr);
  MPI_Finalize();
  return 0;
}
