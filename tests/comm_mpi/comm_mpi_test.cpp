// The contract over MPI ranks: run under mpirun by tests/CMakeLists.txt.
//   comm_mpi_test CARRIER contract        every collective
//   comm_mpi_test CARRIER groups          split, make_group
//   comm_mpi_test CARRIER failing_groups  what reaches whom when a group fails
//   comm_mpi_test CARRIER sizes           every collective and dtype at > 16 Mi elements
//   comm_mpi_test CARRIER large|mismatch|counts|pair|late|abort|kill
// CARRIER: shared, mpi, or hosts2 (every two ranks as if on a host of their own: both together).
// Ends with 0 when this rank saw what it should.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>

#include "core/base/error.h"
#include "tests/comm/contract_compression.h"
#include "tests/comm/contract_large.h"
#include "tests/comm/group_contract.h"

namespace peal {
namespace {

using contract::require;

void run_contract(Communicator& comm) {
  require(comm.backend() == "host", "backend");
  contract::for_every_dtype([&]<typename T>() {
    contract::all_reduce<T>(comm);
    contract::roots_and_blocks<T>(comm, contract::Memory::mixed);
    contract::all_reduce_groups<T>(comm, contract::Memory::mixed);
    contract::send_and_receive<T>(comm, contract::Memory::mixed);
  });
  contract::half_sums_round_once<contract::F16>(comm);
  contract::half_sums_round_once<contract::Bf16>(comm);
  contract::roots_and_blocks<float>(comm, contract::Memory::own);
  contract::roots_and_blocks<float>(comm, contract::Memory::shared);
  contract::all_reduce_groups<float>(comm, contract::Memory::own);
  contract::all_reduce_groups<float>(comm, contract::Memory::shared);
  contract::ragged_calls_in_flight(comm);
  contract::calls_run_in_order(comm);
  contract::polling_makes_progress(comm);
  contract::tree_is_invariant(comm, 12);
  contract::buckets_match(comm, Reduction::repeatable, 1);
  contract::buckets_match(comm, Reduction::fast, 1);
  contract::buckets_match(comm, Reduction::rank_invariant, 8);
  contract::buckets_match(comm, Reduction::rank_invariant, 11);
  contract::compressed_buckets(comm);
  agree(comm, {{"job", "same"}});
  agree_on_error(comm, nullptr);
}

// More than the bounce buffers and the pieces of the MPI algorithms hold.
void run_large(Communicator& comm) {
  Stream s;
  const std::int64_t count = 3'000'017;
  const Buffer shared = comm.allocate(static_cast<std::size_t>(count) * sizeof(float));
  std::vector<float> own(static_cast<std::size_t>(count));
  const Tensor a = contract::view<float>(shared, count), b = contract::view(own);
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::ordered_tree}) {
    contract::all_reduce_one<float>(comm, a, a, ReduceOp::sum, algorithm);
    contract::all_reduce_one<float>(comm, b, b, ReduceOp::sum, algorithm);
    contract::all_reduce_one<float>(comm, a, b, ReduceOp::sum, algorithm);
    // Some ranks' memory is shared and some ranks' is not.
    const Tensor mixed = comm.rank() % 2 == 0 ? a : b;
    contract::all_reduce_one<float>(comm, mixed, mixed, ReduceOp::sum, algorithm);
  }
  const std::int64_t most = (std::int64_t{16} << 20) + 17;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(most));
  contract::all_reduce_one<std::uint8_t>(comm, contract::view(bytes), contract::view(bytes),
                                         ReduceOp::sum, Algorithm::automatic);
  contract::roots_and_blocks<std::int8_t>(comm, contract::Memory::mixed,
                                          {(std::int64_t{4} << 20) + 1001});
  contract::all_reduce_group<contract::Bf16>(comm, contract::Memory::mixed,
                                             {5'000'000, 3, 2'500'001}, ReduceOp::sum);
}

// Every call and dtype at more than 16 Mi elements; memory of all kinds in turn.
void run_sizes(Communicator& comm) {
  int kind = 0;
  contract::for_every_dtype([&]<typename T>() {
    contract::Large<T>(comm, static_cast<contract::Memory>(kind++ % 3)).all();
  });
}

// Runs `call` and requires that it fails with this kind and text.
void require_error(ErrorKind kind, const std::vector<std::string>& texts,
                   const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    require(error.kind() == kind, "wrong kind: ", error.what());
    for (const std::string& text : texts) {
      require(std::string(error.what()).find(text) != std::string::npos, "\"", error.what(),
              "\" does not say \"", text, "\"");
    }
    return;
  }
  throw std::runtime_error(cat("nothing was thrown; wanted ", join(texts)));
}

void mismatch(Communicator& comm) {
  Stream s;
  std::vector<float> x(comm.rank() == 1 ? 11 : 10);
  require_error(ErrorKind::numeric,
                {"all_reduce \"loss\" (sum, f32, 10 elements) on rank 0",
                 "all_reduce \"loss\" (sum, f32, 11 elements) on rank 1"},
                [&] {
                  comm.wait(s, comm.all_reduce(s, "loss", contract::view(x), contract::view(x),
                                               ReduceOp::sum));
                });
}

// Rank 1 sends rank 2 more than that expects: all ranks say so.
void counts(Communicator& comm) {
  Stream s;
  const std::vector<std::int64_t> ones(3, 1), more{1, 1, 2};
  std::vector<float> x(comm.rank() == 1 ? 4 : 3), y(3);
  require_error(ErrorKind::numeric,
                {"ranks out of step: call 1 is all_to_all \"tokens\" (f32, ragged) but rank 1",
                 "sends 2 elements to rank 2", "which expects 1"},
                [&] {
                  comm.wait(s, comm.all_to_all(s, "tokens", contract::view(x), contract::view(y),
                                               comm.rank() == 1 ? more : ones, ones));
                });
}

// Ranks 0 and 2 both send; rank 1 hears of it in the barrier.
void pair(Communicator& comm) {
  Stream s;
  std::vector<float> x(10);
  const auto call = [&] {
    if (comm.rank() != 1) {
      comm.wait(s, comm.send(s, "tokens", contract::view(x), 2 - comm.rank()));
    }
    comm.wait(s, comm.barrier(s, "end"));
  };
  require_error(
      ErrorKind::numeric,
      {"ranks out of step: call 1 between two ranks is send \"tokens\" (to rank 2, f32, 10 "
       "elements) on rank 0 (",
       "but send \"tokens\" (to rank 0"},
      call);
}

void late(Communicator& comm) {
  Stream s;
  std::vector<float> x(10);
  const Tensor view = contract::view(x);
  comm.set_step(1203);
  comm.wait(s, comm.all_reduce(s, "bucket 6", view, view, ReduceOp::sum));
  comm.set_deadline(comm.rank() == 0 ? 0.5 : 30);
  // Long after the deadline, should rank 0 itself be late.
  if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(3000));
  require_error(ErrorKind::peer,
                {"rank 0 step 1203: waited 0.5 s in all_reduce \"bucket 7\"; rank 1 last finished "
                 "\"bucket 6\""},
                [&] { comm.wait(s, comm.all_reduce(s, "bucket 7", view, view, ReduceOp::sum)); });
}

// A rank may hear of it while it still waits for the end of the first call, which rank 1 has seen.
void abort_is_heard(Communicator& comm) {
  Stream s;
  require_error(ErrorKind::input, {"rank 1 (", "): train.idx: record 7 is cut short"}, [&] {
    comm.wait(s, comm.barrier(s, "start"));
    if (comm.rank() == 1) comm.abort("train.idx: record 7 is cut short", 2);
    comm.wait(s, comm.barrier(s, "epoch"));
  });
}

// Never returns on rank 1; mpirun or the missing process ends the others.
void kill_one(Communicator& comm) {
  Stream s;
  std::printf("process %d\n", static_cast<int>(::getpid()));
  std::fflush(stdout);
  comm.wait(s, comm.barrier(s, "start"));
  if (comm.rank() == 1) std::raise(SIGKILL);
  comm.wait(s, comm.barrier(s, "never"));
}

// In a world of its own for each.
template <bool shared_memory>
void failing_groups(Communicator& comm) {
  for (const contract::FailingGroup& group : contract::kFailingGroups) {
    const auto world = make_host_communicator({shared_memory, 60});
    group.run(*world);
  }
  Stream s;
  comm.wait(s, comm.barrier(s, "this world is well"));
}

int run(const std::string& memory, const std::string& what) {
  const std::map<std::string, void (*)(Communicator&)> tests{
      {"contract", run_contract},
      {"groups", contract::groups},
      {"failing_groups", memory == "shared" ? failing_groups<true> : failing_groups<false>},
      {"large", run_large},
      {"sizes", run_sizes},
      {"mismatch", mismatch},
      {"counts", counts},
      {"pair", pair},
      {"late", late},
      {"abort", abort_is_heard},
      {"kill", kill_one}};
  MpiSession session;
  HostOptions options;
  options.deadline_seconds = 60;
  options.shared_memory = memory != "mpi";
  if (memory == "hosts2") options.ranks_per_host = 2;
  const auto comm = make_host_communicator(options);
  try {
    tests.at(what)(*comm);
    if (comm->rank() == 0)
      std::printf("passed: %s %s on %d\n", memory.c_str(), what.c_str(), comm->world_size());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", comm->rank_name(comm->rank()).c_str(), error.what());
    MpiSession::exit_process(1);
  }
  return 0;
}

}  // namespace
}  // namespace peal

int main(int count, char** arguments) {
  if (count != 3 || !peal::MpiSession::launched()) return 2;
  return peal::run(arguments[1], arguments[2]);
}
