// `peal bench collectives`: the columns of nccl-tests for this comm layer, beside MPI's own.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "comm/tuning.h"
#include "core/base/error.h"
#include "launcher/bench.h"
#include "launcher/cli.h"
#include "launcher/measure_collectives.h"
#include "launcher/progress.h"
#include "launcher/train.h"
#include "launcher/tune_collectives.h"

namespace peal {
namespace {

template <typename T>
struct Choice {
  const char* name;
  T value;
};
constexpr Choice<Collective> kOps[] = {
    {"all_reduce", Collective::all_reduce}, {"ordered_tree", Collective::ordered_tree},
    {"reduce", Collective::reduce},         {"reduce_scatter", Collective::reduce_scatter},
    {"all_gather", Collective::all_gather}, {"gather", Collective::gather},
    {"scatter", Collective::scatter},       {"all_to_all", Collective::all_to_all},
    {"broadcast", Collective::broadcast},   {"ping_pong", Collective::ping_pong}};
constexpr Choice<DType> kDTypes[] = {
    {"f32", DType::f32},   {"f64", DType::f64}, {"f16", DType::f16},
    {"bf16", DType::bf16}, {"i64", DType::i64}, {"i32", DType::i32},
    {"i8", DType::i8},     {"u8", DType::u8},   {"bool", DType::boolean}};
constexpr Choice<Peer> kPeers[] = {{"mpi", Peer::mpi}, {"ring", Peer::ring}};
constexpr Choice<Algorithm> kAlgorithms[] = {{"automatic", Algorithm::automatic},
                                             {"auto", Algorithm::automatic},
                                             {"ring", Algorithm::ring},
                                             {"ordered_tree", Algorithm::ordered_tree}};

struct CollectivesArguments {
  std::string op = "all_reduce", dtype = "f32", algorithm = "automatic", way;
  std::string smallest = "4B", largest = "256MiB";
  std::int64_t factor = 2;
  std::int64_t warmup = 5, iterations = 0;
  int local = 0;
  bool private_memory = false, no_fetch = false, fresh = false, json = false;
  std::string compare;  // empty: with nothing
  bool tune = false;
  std::string tune_file;
};

template <typename T, std::size_t N>
T value_of(const Choice<T> (&choices)[N], const std::string& name) {
  for (const Choice<T>& choice : choices) {
    if (name == choice.name) return choice.value;
  }
  fail_internal("bench collectives", "\"", name, "\" passed the parser");
}

template <typename T, std::size_t N>
CLI::IsMember one_of(const Choice<T> (&choices)[N]) {
  std::vector<std::string> names;
  for (const Choice<T>& choice : choices) names.emplace_back(choice.name);
  return CLI::IsMember(names);
}

struct Sizes {
  long long smallest = 0, largest = 0;  // bytes
};

Sizes read_sizes(const CollectivesArguments& arguments) {
  const Sizes sizes{parse_bytes(arguments.smallest, "--min"),
                    parse_bytes(arguments.largest, "--max")};
  if (sizes.smallest < 1) fail_input("--min", arguments.smallest, "; allowed: 1 byte and more");
  if (sizes.largest < sizes.smallest) {
    fail_input("--max", arguments.largest, "; allowed: --min, which is ", arguments.smallest,
               ", and more");
  }
  return sizes;
}

CollectiveCase read_case(const CollectivesArguments& arguments) {
  CollectiveCase what;
  what.op = value_of(kOps, arguments.op);
  what.dtype = value_of(kDTypes, arguments.dtype);
  what.algorithm = value_of(kAlgorithms, arguments.algorithm);
  what.warmup = arguments.warmup;
  what.iterations = arguments.iterations;
  what.private_memory = arguments.private_memory;
  what.fresh = arguments.fresh;
  if (!arguments.compare.empty()) what.peer = value_of(kPeers, arguments.compare);
  if (what.op == Collective::ordered_tree && what.dtype != DType::f32) {
    fail_input("--dtype", arguments.dtype, "; allowed with --op ordered_tree: f32");
  }
  if (what.op != Collective::all_reduce && what.algorithm != Algorithm::automatic) {
    fail_input("--algorithm", arguments.algorithm, "; allowed with --op ", arguments.op,
               ": automatic");
  }
  const bool mpi = arguments.local == 0 && MpiSession::launched();
  for (const auto& [option, given] :
       {std::pair("--tune", arguments.tune), std::pair("--tune-file", !arguments.tune_file.empty()),
        std::pair("--way", !arguments.way.empty())}) {
    if (!given || mpi) continue;
    fail_input(option,
               "these ranks have no MPI; start them with mpirun or srun, such as mpirun -np 2 "
               "peal bench collectives --tune");
  }
  const bool all_reduces = what.op == Collective::all_reduce || what.op == Collective::ordered_tree;
  if (what.peer == Peer::ring && !all_reduces) {
    fail_input("--compare ring", "--op ", arguments.op, "; allowed: all_reduce, ordered_tree");
  }
  if (what.peer == Peer::mpi && !mpi) {
    fail_input("--compare mpi",
               "these ranks have no MPI; start them with mpirun or srun, such as "
               "mpirun -np 2 peal bench collectives --compare mpi");
  }
  return what;
}

// Sizes in bytes become whole blocks, the next larger number of them.
std::vector<std::int64_t> counts_of(const CollectiveCase& what, const Sizes& sizes,
                                    std::int64_t factor, int ranks) {
  std::vector<std::int64_t> counts;
  const auto block = static_cast<std::int64_t>(what.bytes(1, ranks));
  for (std::int64_t size = sizes.smallest;; size *= factor) {
    const std::int64_t count = (size - 1) / block + 1;
    if (counts.empty() || counts.back() != count) counts.push_back(count);
    if (size > sizes.largest / factor) return counts;
  }
}

// A size that no host can hold is wrong input, not the end of whatever else runs there.
void check_largest(const CollectiveCase& what, std::int64_t count, const Communicator& comm) {
  const auto bytes = static_cast<double>(what.bytes(count, comm.world_size()));
  if (what.op == Collective::ping_pong && comm.world_size() < 2) {
    fail_input("--op ping_pong", "1 rank; 2 and more are needed");
  }
  // What MPI counts: a block, but in all_to_all all of them.
  const bool all = what.op == Collective::all_to_all;
  if (all) count *= comm.world_size();
  if (what.peer == Peer::mpi && count > MpiPeer::kMostElements) {
    fail_input("--max", count, " elements; allowed with --compare mpi: ", MpiPeer::kMostElements);
  }
  const double buffers = what.peer != Peer::none ? 4 : 2;
  const double needed = buffers * bytes * comm.local_size();
  const double here =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  if (needed > 0.9 * here) {
    fail_input("--max", "the buffers of ", comm.local_size(), " ranks take ", human_bytes(needed),
               "; allowed: 90% of the memory of the host, ", human_bytes(here));
  }
}

struct Row {
  std::int64_t count = 0;
  std::size_t bytes = 0;
  std::string way = "-";  // of all_reduce
  std::optional<CollectiveTimes> out_of_place, in_place;
};
constexpr const char* kFirst = "%1s%11s %12s %6s %6s %12s";  // columns before the times

class Report {
 public:
  Report(const CollectivesArguments& arguments, const CollectiveCase& what,
         const Communicator& comm)
      : arguments_(arguments), what_(what), comm_(comm) {}

  std::vector<std::string> head() const;
  std::vector<std::string> lines(const Row& row) const;

 private:
  std::string table_line(const Row& row) const;
  std::string columns(const std::optional<CollectiveTimes>& times, std::size_t bytes) const;
  std::string json_line(const Row& row, const CollectiveTimes& times, bool in_place) const;
  double algorithm_bandwidth(const CollectiveTimes& times, std::size_t bytes) const {
    return static_cast<double>(bytes) / times.median * 1e-9;
  }
  double bus_bandwidth(const CollectiveTimes& times, std::size_t bytes) const {
    return algorithm_bandwidth(times, bytes) * what_.bus_factor(comm_.world_size());
  }

  const CollectivesArguments& arguments_;
  const CollectiveCase& what_;
  const Communicator& comm_;
};

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  char text[160];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

std::vector<std::string> Report::head() const {
  if (arguments_.json) return {};
  const bool compare = what_.peer != Peer::none, mpi = what_.peer == Peer::mpi;
  const std::string columns =
      format(" %9s %9s %9s %7s %7s %6s", "time", "p50", "p99", "algbw", "busbw", "#wrong") +
      (compare ? format(" %9s %6s", mpi ? "MPI p50" : "ring p50", "ratio") : "");
  const std::string units =
      format(" %9s %9s %9s %7s %7s %6s", "(us)", "(us)", "(us)", "(GB/s)", "(GB/s)", "") +
      (compare ? format(" %9s %6s", "(us)", "") : "");
  const auto group = [&](const char* name) {
    return format(" %*s", static_cast<int>(columns.size()) - 1, name);
  };
  return {
      cat("# ", arguments_.op, ", ", comm_.world_size(), " ranks, backend ", comm_.backend(),
          ", algorithm ", arguments_.algorithm, ", ", what_.private_memory ? "private" : "shared",
          " memory", what_.fresh ? ", fresh inputs" : "",
          compare ? cat(", beside ", mpi ? MpiPeer::library() : "all_reduce around a ring") : ""),
      "# time: mean; algbw and busbw: of p50; a call takes as long as on its slowest rank",
      format(kFirst, "#", "", "", "", "", "") + group("out-of-place") + group("in-place"),
      format(kFirst, "#", "size", "count", "type", "redop", "way") + columns + columns,
      format(kFirst, "#", "(B)", "(elements)", "", "", "") + units + units};
}

std::string Report::columns(const std::optional<CollectiveTimes>& times, std::size_t bytes) const {
  const bool compare = what_.peer != Peer::none;
  if (!times) {
    return format(" %9s %9s %9s %7s %7s %6s", "-", "-", "-", "-", "-", "-") +
           (compare ? format(" %9s %6s", "-", "-") : "");
  }
  return format(" %9.2f %9.2f %9.2f %7.2f %7.2f %6lld", 1e6 * times->mean, 1e6 * times->median,
                1e6 * times->p99, algorithm_bandwidth(*times, bytes), bus_bandwidth(*times, bytes),
                static_cast<long long>(times->wrong)) +
         (compare ? format(" %9.2f %6.2f", 1e6 * times->peer_median, times->ratio()) : "");
}

std::string Report::table_line(const Row& row) const {
  return format(kFirst, "", std::to_string(row.bytes).c_str(), std::to_string(row.count).c_str(),
                arguments_.dtype.c_str(), what_.reduces() ? "sum" : "none", row.way.c_str()) +
         columns(row.out_of_place, row.bytes) + columns(row.in_place, row.bytes);
}

std::string Report::json_line(const Row& row, const CollectiveTimes& times, bool in_place) const {
  nlohmann::ordered_json line = {{"op", arguments_.op},
                                 {"bytes", row.bytes},
                                 {"count", row.count},
                                 {"dtype", arguments_.dtype},
                                 {"ranks", comm_.world_size()},
                                 {"backend", comm_.backend()},
                                 {"algorithm", arguments_.algorithm},
                                 {"way", row.way},
                                 {"memory", what_.private_memory ? "private" : "shared"},
                                 {"fresh", what_.fresh},
                                 {"in_place", in_place},
                                 {"iterations", times.iterations},
                                 {"time_us", 1e6 * times.median},
                                 {"mean_us", 1e6 * times.mean},
                                 {"p99_us", 1e6 * times.p99},
                                 {"algbw", algorithm_bandwidth(times, row.bytes)},
                                 {"busbw", bus_bandwidth(times, row.bytes)},
                                 {"wrong", times.wrong}};
  if (what_.peer != Peer::none) {
    line[cat(arguments_.compare, "_time_us")] = 1e6 * times.peer_median;
    line["ratio"] = times.ratio();
  }
  return line.dump();
}

std::vector<std::string> Report::lines(const Row& row) const {
  if (!arguments_.json) return {table_line(row)};
  std::vector<std::string> lines;
  if (row.out_of_place) lines.push_back(json_line(row, *row.out_of_place, /*in_place=*/false));
  if (row.in_place) lines.push_back(json_line(row, *row.in_place, /*in_place=*/true));
  return lines;
}

void bench_collectives(const CollectivesArguments& arguments, const CollectiveCase& what,
                       const Sizes& sizes, Communicator& comm) {
  const auto counts = counts_of(what, sizes, arguments.factor, comm.world_size());
  together(comm, [&] { check_largest(what, counts.back(), comm); });
  CollectiveBench bench(what, counts.back(), comm);
  const Report report(arguments, what, comm);
  Progress progress(comm.rank() == 0, on_a_terminal() && !arguments.json);
  for (const std::string& line : report.head()) progress.say(line);
  std::int64_t wrong = 0;
  std::string first_wrong;
  for (const std::int64_t count : counts) {
    Row row{count, what.bytes(count, comm.world_size())};
    if (what.op == Collective::all_reduce) row.way = comm.way(count, what.dtype, what.algorithm);
    const auto measure = [&](bool in_place) {
      const std::string where = cat(row.bytes, " bytes ", in_place ? "in place" : "out of place");
      progress.note(cat(arguments.op, ", ", where, " ..."));
      const CollectiveTimes times = bench.measure(count, in_place);
      if (wrong == 0 && times.wrong > 0) first_wrong = where;
      wrong += times.wrong;
      return times;
    };
    if (what.has_out_of_place()) row.out_of_place = measure(/*in_place=*/false);
    if (what.has_in_place()) row.in_place = measure(/*in_place=*/true);
    for (const std::string& line : report.lines(row)) progress.say(line);
  }
  if (wrong > 0) {
    throw Error(ErrorKind::numeric, "bench collectives",
                cat(wrong, " elements that ", arguments.op,
                    " left behind are wrong, the first with ", first_wrong));
  }
}

void add_options(CLI::App& command, CollectivesArguments& arguments) {
  const auto count = [&](const char* name, std::int64_t& value, std::int64_t least,
                         const char* help) {
    return command.add_option(name, value, help)
        ->check(CLI::Range(least, std::int64_t{1} << 40))
        ->capture_default_str();
  };
  command.add_option("--op", arguments.op, "what is measured")
      ->check(one_of(kOps))
      ->capture_default_str();
  command.add_option("--dtype", arguments.dtype, "of the elements")
      ->check(one_of(kDTypes))
      ->capture_default_str();
  command.add_option("--algorithm", arguments.algorithm, "of all_reduce")
      ->check(one_of(kAlgorithms))
      ->capture_default_str();
  command.add_option(
      "--way", arguments.way,
      "how every all_reduce is carried out that can be, whatever is tuned: " + names_of_ways());
  command.add_option("--min", arguments.smallest, "smallest size: 4096, 64KiB, 128MB, ...")
      ->capture_default_str();
  command.add_option("--max", arguments.largest, "largest size")->capture_default_str();
  count("--factor", arguments.factor, 2, "from one size to the next");
  count("--warmup", arguments.warmup, 1, "calls before those measured");
  count("--iterations", arguments.iterations, 0,
        "calls measured; 0: 5 to 5000, as many as fit 0.4 s");
  command.add_option("--local", arguments.local, "run this many ranks as threads of this process")
      ->check(CLI::Range(1, 1024));
  command.add_flag("--fresh", arguments.fresh,
                   "write the inputs before every call, as training does; nccl-tests does not, so "
                   "that they stay in the caches of those who read them");
  command.add_flag("--private", arguments.private_memory,
                   "ordinary memory, not the communicator's, which ranks of a host share");
  command.add_flag(
      "--no-fetch", arguments.no_fetch,
      "private memory through bounce buffers, as where the kernel lets no process read "
      "another's");
  command
      .add_option("--compare", arguments.compare,
                  "take turns with MPI's own, or with Peal's ring: its time and the ratio, "
                  "theirs / ours")
      ->check(one_of(kPeers));
  command.add_flag("--json", arguments.json, "print one JSON object a line");
  command.add_flag("--tune", arguments.tune,
                   "fit what meetings, messages and bytes cost here, inside hosts and between them "
                   "as the ranks lie, and store it: all_reduce then goes the quickest way");
  command.add_option("--tune-file", arguments.tune_file,
                     "where --tune stores that, and other runs find it; otherwise $PEAL_TUNE or " +
                         default_tuning_path().string());
}

}  // namespace

void add_bench_collectives(CLI::App& bench) {
  auto arguments = std::make_shared<CollectivesArguments>();
  CLI::App* command = bench.add_subcommand(
      "collectives", "time and bandwidth of collectives over a range of sizes, each checked");
  add_options(*command, *arguments);
  command->footer(
      "Columns as in nccl-tests: a size is that of the larger array of a rank, busbw is algbw "
      "times\n"
      "2(n-1)/n for all_reduce and ordered_tree, (n-1)/n where an array has a block for every\n"
      "rank, 1 for reduce, broadcast and ping_pong, which is timed one way between two ranks.\n"
      "#wrong counts the elements that are not exactly as they must be; if any, the exit code is "
      "4.\n"
      "Examples:\n"
      "  mpirun -np 2 --bind-to core peal bench collectives --compare mpi\n"
      "  mpirun -np 4 --bind-to core peal bench collectives --tune\n"
      "  mpirun -np 4 peal bench collectives --op reduce_scatter --min 64KiB --max 64MiB --json\n"
      "  mpirun -np 2 --bind-to core peal bench collectives --op ordered_tree --compare ring\n"
      "  peal bench collectives --local 2 --dtype f64 --algorithm ordered_tree");
  command->callback([arguments] {
    const CollectiveCase what = read_case(*arguments);
    const Sizes sizes = read_sizes(*arguments);
    HostOptions options;
    if (!arguments->tune_file.empty()) options.tune_file = arguments->tune_file;
    if (arguments->tune) options.tune_file = "";
    options.way = arguments->way;
    options.fetch = !arguments->no_fetch;
    with_ranks(
        arguments->local,
        [&](Communicator& comm) {
          if (arguments->tune) return tune_collectives(arguments->tune_file, what.iterations, comm);
          bench_collectives(*arguments, what, sizes, comm);
        },
        options);
  });
}

}  // namespace peal
