// The contract over MPI ranks: run under mpirun by tests/CMakeLists.txt.
//   comm_mpi_test CARRIER contract        every collective
//   comm_mpi_test CARRIER groups          split, make_group
//   comm_mpi_test CARRIER failing_groups  what reaches whom when a group fails
//   comm_mpi_test CARRIER sizes           every collective and dtype at > 16 Mi elements
//   comm_mpi_test CARRIER ways            every way of an all-reduce; what a tune file may change
//   comm_mpi_test shared fetched          private memory, fetched or not: the same bits
//   comm_mpi_test shared unreadable       private memory that peers cannot read
//   comm_mpi_test CARRIER large|mismatch|counts|pair|late|abort|kill
// CARRIER: shared, bounce (the same where no rank may read another's memory), mpi, or hosts2 (every
// two ranks as if on a host of their own: shared and mpi together).
// Ends with 0 when this rank saw what it should.
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "comm/tuning.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/random.h"
#include "tests/comm/contract_compression.h"
#include "tests/comm/contract_large.h"
#include "tests/comm/group_contract.h"
#include "tests/temporary_folder.h"

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
  contract::tree_scatters(comm, 9);
  contract::buckets_match(comm, Reduction::repeatable, 1);
  contract::buckets_match(comm, Reduction::fast, 1);
  contract::buckets_match(comm, Reduction::rank_invariant, 8);
  contract::buckets_match(comm, Reduction::rank_invariant, 11);
  contract::sharded_buckets_match(comm, Reduction::rank_invariant, 11);
  contract::sharded_buckets_match(comm, Reduction::repeatable, 1);
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
  const auto side = comm.split(0, comm.rank());
  comm.wait(s, comm.all_reduce(s, "bucket 6", view, view, ReduceOp::sum));
  comm.set_deadline(comm.rank() == 0 ? 0.5 : 30);
  const std::string text =
      "rank 0 step 1203: waited 0.5 s in all_reduce \"bucket 7\"; rank 1 last finished \"bucket "
      "6\"";
  if (comm.rank() == 1) {  // hears there that rank 0 has given up
    require_error(ErrorKind::peer, {text}, [&] { side->wait(s, side->barrier(s, "late")); });
  }
  require_error(ErrorKind::peer, {text},
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

HostOptions options_of(const std::string& memory) {
  HostOptions options;
  options.deadline_seconds = 60;
  options.shared_memory = memory != "mpi";
  options.fetch = memory != "bounce";
  if (memory == "hosts2") options.ranks_per_host = 2;
  options.tune_file = "";
  return options;
}

std::vector<float> numbers(std::int64_t count, int rank) {
  std::vector<float> x(static_cast<std::size_t>(count));
  const Random random({.seed = 5, .stream = static_cast<std::uint64_t>(rank)});
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(random.u64(i) % 1000003) / 1009.0f - 400;
  }
  return x;
}

// Sums whose bits depend on the order of additions, of all sizes and orders but automatic.
std::vector<float> ordered_sums(Communicator& comm) {
  Stream s;
  std::vector<float> all;
  for (const std::int64_t count : {1, 400, 3000, 9000, 200'000}) {
    for (const Algorithm algorithm : {Algorithm::ring, Algorithm::ordered_tree}) {
      std::vector<float> x = numbers(count, comm.rank());
      const Tensor view = contract::view(x);
      comm.wait(s, comm.all_reduce(s, "sum", view, view, ReduceOp::sum, algorithm));
      all.insert(all.end(), x.begin(), x.end());
    }
    const int virtual_ranks = 12;
    const auto nodes =
        maximal_nodes(virtual_ranks, block_of(virtual_ranks, comm.world_size(), comm.rank()));
    std::vector<std::vector<float>> partials;
    std::vector<Tensor> views;
    for (const TreeNode& node : nodes) partials.push_back(numbers(count, node.begin));
    for (auto& partial : partials) views.push_back(contract::view(partial));
    comm.wait(s, comm.all_reduce_tree(s, "tree", virtual_ranks, views, views[0]));
    all.insert(all.end(), partials[0].begin(), partials[0].end());
  }
  return all;
}

// Long private arrays, of which some ranks' are shared and some are not.
std::vector<float> long_sums(Communicator& comm) {
  Stream s;
  constexpr std::int64_t kCount = 1'000'003;
  const Buffer shared = comm.allocate(kCount * sizeof(float));
  const Tensor in_window = contract::view<float>(shared, kCount);
  std::vector<float> all;
  for (const int sharing : {0, 1, 2}) {  // none, some, all but one
    for (const Algorithm algorithm : {Algorithm::ring, Algorithm::ordered_tree}) {
      std::vector<float> x = numbers(kCount, comm.rank()), y(x.size());
      const bool shares = comm.rank() % 3 < sharing;
      std::copy(x.begin(), x.end(), in_window.as<float>());
      const Tensor from = shares ? in_window : contract::view(x), to = contract::view(y);
      comm.wait(s, comm.all_reduce(s, "apart", from, to, ReduceOp::sum, algorithm));
      comm.wait(s, comm.all_reduce(s, "in place", from, from, ReduceOp::sum, algorithm));
      all.insert(all.end(), y.begin(), y.end());
      all.insert(all.end(), from.as<float>(), from.as<float>() + kCount);
    }
  }
  return all;
}

void same_bits_fetched(Communicator& comm) {
  HostOptions options = options_of("shared");
  const std::vector<float> fetched = long_sums(comm), steps = ordered_sums(comm);
  options.fetch = false;
  const auto bounced = make_host_communicator(options);
  require(long_sums(*bounced) == fetched, "other bits through bounce buffers");
  require(ordered_sums(*bounced) == steps, "other bits of small sums");
}

// Whether the kernel lets every rank read every other.
bool all_can_read(Communicator& comm) {
  Stream s;
  struct Word {
    std::int64_t process, address, value;
  };
  static const std::int64_t value = 77;
  std::vector<Word> words(static_cast<std::size_t>(comm.world_size()));
  Word mine{::getpid(), static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(&value)), value};
  comm.wait(s, comm.all_gather(s, "words", {&mine, {3}, DType::i64},
                               {words.data(), {3 * comm.world_size()}, DType::i64}));
  std::int64_t all = 1;
  for (const Word& word : words) {
    std::int64_t found = 0;
    const iovec to{&found, sizeof found};
    const iovec from{reinterpret_cast<void*>(word.address), sizeof found};
    const auto process = static_cast<pid_t>(word.process);
    if (::process_vm_readv(process, &to, 1, &from, 1, 0) < 0 || found != word.value) all = 0;
  }
  const Tensor view{&all, {1}, DType::i64};
  comm.wait(s, comm.all_reduce(s, "all", view, view, ReduceOp::min));
  return all == 1;
}

// The one whose memory cannot be read is named everywhere. The first 64 KiB of an array this long
// are rank 0's to reduce, so rank 1 itself does not read them. Where it must, as none may fetch,
// all is well with memory that it can read.
void unreadable(Communicator& comm) {
  Stream s;
  constexpr std::size_t kHidden = std::size_t{64} << 10, kBytes = std::size_t{4} << 20;
  const bool fetches = all_can_read(comm);
  void* memory =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED, "mmap");
  std::vector<float> sums(kBytes / sizeof(float));
  const Tensor x{memory, {static_cast<std::int64_t>(sums.size())}}, y = contract::view(sums);
  if (!fetches) {
    return contract::all_reduce_one<float>(comm, x, y, ReduceOp::sum, Algorithm::automatic);
  }
  if (comm.rank() == 1) ::mprotect(memory, kHidden, PROT_NONE);
  require_error(ErrorKind::peer,
                {"rank 1 (", ") has memory that cannot be read, in all_reduce \"hidden\""},
                [&] { comm.wait(s, comm.all_reduce(s, "hidden", x, y, ReduceOp::sum)); });
}

// By size, what this communicator does; the same on all ranks.
std::string ways_of(Communicator& comm) {
  std::string ways;
  for (std::int64_t bytes = 1; bytes < 1 << 24; bytes *= 2) {
    ways += cat(comm.way(bytes, DType::u8, Algorithm::automatic), " ");
  }
  agree(comm, {{"ways", ways}});
  return ways;
}

// Each rank brings a file of its own: rank 0's decides. Whatever it says, sums that are promised
// have the same bits; the others are right.
void ways(const std::string& memory, Communicator& comm) {
  const TemporaryFolder folder;
  HostOptions options = options_of(memory);
  const std::vector<float> expected = ordered_sums(comm);
  std::set<std::string> seen;
  for (int k = 0; k < 4; ++k) {
    Tuning tuning;
    tuning.inside = tuning.between = FittedOn{1, 1, "any"};
    // Meetings or steps that cost nothing, or all there is; every rank has other costs.
    const int costly = (k + comm.rank()) % 4;
    if (costly == 0) tuning.costs.set({0, 1e-9, 1e-9, 0, 0, 1e-9});
    if (costly == 1) tuning.costs.set({1, 0, 0, 1e-6, 1e-6, 1e-6});
    if (costly == 2) tuning.costs.set({0, 0, 0, 1, 0, 1e-9});
    if (costly == 3) tuning.costs.factors[static_cast<std::size_t>(Way::direct)].fill(100);
    options.tune_file = (folder.path() / "tuning").string();
    write_file_atomically(*options.tune_file, print_tuning(tuning));
    if (comm.rank() == 1 && k == 3) options.tune_file = "/absent";
    const auto tuned = make_host_communicator(options);
    seen.insert(ways_of(*tuned));
    require(ordered_sums(*tuned) == expected, "other bits with costs ", k);
    contract::all_reduce<float>(*tuned);
    contract::all_reduce<contract::Bf16>(*tuned);
  }
  require(comm.world_size() == 1 || seen.size() > 1, "all costs lead to the same ways");
  for (std::size_t i = 0; i < kWays; ++i) {
    options.tune_file = "";
    options.way = name_of(static_cast<Way>(i));
    const auto world = make_host_communicator(options);
    const bool taken = ways_of(*world).find(options.way) != std::string::npos;
    const bool several = comm.world_size() > comm.local_size();
    const bool inside = static_cast<Way>(i) == Way::mail || static_cast<Way>(i) == Way::slices;
    const bool over_hosts = options.way.starts_with("hosts");
    const bool pairs = comm.world_size() > 2 && (comm.world_size() & (comm.world_size() - 1)) == 0;
    bool can = memory == "shared" ? inside : !inside && (!over_hosts || several);
    if (static_cast<Way>(i) == Way::doubling) can = can && pairs;
    require(taken == can, options.way, can ? " is never taken" : " is taken");
    require(ordered_sums(*world) == expected, "other bits by ", options.way);
    contract::all_reduce<float>(*world);
    contract::all_reduce<std::int64_t>(*world);
  }
}

int run(const std::string& memory, const std::string& what) {
  const std::map<std::string, void (*)(Communicator&)> tests{
      {"contract", run_contract},
      {"groups", contract::groups},
      {"failing_groups", memory == "shared" ? failing_groups<true> : failing_groups<false>},
      {"large", run_large},
      {"ways", nullptr},
      {"sizes", run_sizes},
      {"fetched", same_bits_fetched},
      {"unreadable", unreadable},
      {"mismatch", mismatch},
      {"counts", counts},
      {"pair", pair},
      {"late", late},
      {"abort", abort_is_heard},
      {"kill", kill_one}};
  MpiSession session;
  const auto comm = make_host_communicator(options_of(memory));
  try {
    const auto test = tests.at(what);
    test != nullptr ? test(*comm) : ways(memory, *comm);
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
