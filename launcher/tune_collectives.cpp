#include "launcher/tune_collectives.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>

#include "comm/tuning.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "launcher/bench.h"
#include "launcher/cli.h"
#include "launcher/fit_costs.h"
#include "launcher/measure_collectives.h"
#include "launcher/progress.h"
#include "launcher/rank_layout.h"
#include "launcher/train.h"

namespace peal {
namespace {

constexpr int kRounds = 5;         // of which the median counts
constexpr double kSeconds = 0.05;  // of each

std::filesystem::path path_for(const std::string& file) {
  if (!file.empty()) return file;
  const char* variable = std::getenv("PEAL_TUNE");
  if (variable != nullptr && *variable != 0) return variable;
  const std::filesystem::path path = default_tuning_path();
  if (path.empty()) fail_input("--tune", "neither --tune-file nor PEAL_TUNE nor HOME is set");
  return path;
}

class CollectivesTuner {
 public:
  CollectivesTuner(std::int64_t iterations, Communicator& comm)
      : comm_(comm), progress_(comm.rank() == 0, on_a_terminal()) {
    what_.iterations = iterations;
    what_.seconds = kSeconds;
    const RankLayout layout = find_hosts(comm);
    spread_ = layout.spread;
    host_ = layout.hosts[static_cast<std::size_t>(comm.rank())];
  }

  void fit(const std::filesystem::path& path);

 private:
  bool several_hosts() const { return spread_.hosts > 1; }
  std::vector<CostSample> measure(const std::vector<Way>& ways, bool inside);
  double measure_once(CollectiveBench* ranks, std::int64_t count);
  bool goes(Communicator& ranks, Way way, std::int64_t count);
  void report(const char* where, const CostFit& fit, const FittedOn& on, std::size_t first,
              std::size_t count);
  void say_switches(const std::filesystem::path& path);

  Communicator& comm_;
  Progress progress_;
  CollectiveCase what_;
  Spread spread_;
  int host_ = 0;
};

// On this rank's `ranks`, if it is there; the slowest of all hosts.
double CollectivesTuner::measure_once(CollectiveBench* ranks, std::int64_t count) {
  double seconds = ranks != nullptr ? ranks->measure(count, /*in_place=*/true).median : 0;
  Stream s;
  const Tensor slowest{&seconds, {1}, DType::f64};
  comm_.wait(s, comm_.all_reduce(s, "tune", slowest, slowest, ReduceOp::max));
  return seconds;
}

// Whether a way is taken where it is asked for: on every rank, or those whose host has one are
// alone in `ranks`.
bool CollectivesTuner::goes(Communicator& ranks, Way way, std::int64_t count) {
  int here = ranks.world_size() == 1 ||
             ranks.way(count, what_.dtype, Algorithm::automatic) == name_of(way);
  Stream s;
  const Tensor all{&here, {1}, DType::i32};
  comm_.wait(s, comm_.all_reduce(s, "tune", all, all, ReduceOp::min));
  return here != 0;
}

// Of each host alone, or over all ranks. The ways take turns and all of it is done again and again,
// so that what else the machine does for a while meets all ways, and no round but one.
std::vector<CostSample> CollectivesTuner::measure(const std::vector<Way>& ways, bool inside) {
  constexpr auto kLargest = static_cast<std::int64_t>(CostModel::kFirstSize)
                            << (CostModel::kSizes - 1);
  const int n = spread_.of_host;
  const Spread spread = inside ? Spread{n, 1, n, n} : spread_;
  const auto element = static_cast<std::int64_t>(size_of(what_.dtype));
  struct Lane {
    std::unique_ptr<Communicator> world, host;
    std::unique_ptr<CollectiveBench> bench;
    Communicator& ranks() const { return host ? *host : *world; }
  };
  std::vector<Lane> lanes;
  for (const Way way : ways) {
    Lane& lane = lanes.emplace_back();
    lane.world = make_host_communicator({.tune_file = "", .way = std::string(name_of(way))});
    if (inside) lane.host = lane.world->split(host_, comm_.rank());
    if (lane.ranks().world_size() == 1) continue;
    lane.bench = std::make_unique<CollectiveBench>(what_, kLargest / element, lane.ranks());
  }
  std::map<std::pair<std::int64_t, Way>, std::vector<double>> seconds;
  for (int round = 1; round <= kRounds; ++round) {
    for (auto bytes = static_cast<std::int64_t>(CostModel::kFirstSize); bytes <= kLargest;
         bytes *= 2) {
      for (std::size_t i = 0; i < ways.size(); ++i) {
        const std::int64_t count = bytes / element;
        if (!goes(lanes[i].ranks(), ways[i], count)) continue;
        progress_.note(cat("round ", round, ", ", name_of(ways[i]), ", ", bytes, " bytes ..."));
        seconds[{bytes, ways[i]}].push_back(measure_once(lanes[i].bench.get(), count));
      }
    }
  }
  std::vector<CostSample> samples;
  for (auto& [what, all] : seconds) {
    const auto& [bytes, way] = what;
    samples.push_back({way, {static_cast<double>(bytes), 1}, spread, quantile(all, 0.5)});
  }
  return samples;
}

void CollectivesTuner::report(const char* where, const CostFit& fit, const FittedOn& on,
                              std::size_t first, std::size_t count) {
  constexpr std::array<const char*, CostModel::kAll> kValues{"meeting %.2f us", "copied %.3f ns/B",
                                                             "added %.3f ns/B", "step %.2f us",
                                                             "message %.2f us", "sent %.3f ns/B"};
  const CostModel::Values values = fit.model.values();
  std::string line =
      cat("# ", where, " (hosts ", on.hosts, ", ranks per host ", on.ranks_per_host, "):");
  for (std::size_t i = first; i < first + count; ++i) {
    const bool bytes = std::strstr(kValues[i], "ns/B") != nullptr;
    std::array<char, 64> text;
    std::snprintf(text.data(), text.size(), kValues[i], values[i] * (bytes ? 1e9 : 1e6));
    line += cat(i == first ? " " : ", ", text.data());
  }
  std::array<char, 80> errors;
  std::snprintf(errors.data(), errors.size(), "; off by %.0f%% (median), %.0f%% (most)",
                100 * fit.median_error, 100 * fit.largest_error);
  progress_.say(line + errors.data());
}

// As a job finds them that reads the file.
void CollectivesTuner::say_switches(const std::filesystem::path& path) {
  const auto tuned = make_host_communicator({.tune_file = path.string()});
  const auto way = [&](std::int64_t bytes) {
    return tuned->way(bytes, DType::u8, Algorithm::automatic);
  };
  constexpr std::int64_t kMostElements = std::int64_t{1} << 32;
  std::string line = cat("# all_reduce goes by ", way(1));
  for (std::int64_t from = 1, to = 2; to <= kMostElements; from = to, to *= 2) {
    while (way(from) != way(to)) {
      std::int64_t stays = from, changes = to;
      while (changes - stays > 1) {
        const std::int64_t middle = stays + (changes - stays) / 2;
        (way(middle) == way(from) ? stays : changes) = middle;
      }
      line += cat(", from ", changes, " bytes on ", way(changes));
      from = changes;
    }
  }
  progress_.say(line);
}

void CollectivesTuner::fit(const std::filesystem::path& path) {
  Tuning tuning;
  std::error_code none;
  if (comm_.rank() == 0 && std::filesystem::exists(path, none)) {
    try {
      tuning = read_tuning(path);
    } catch (const Error& error) {
      progress_.say(cat("# replacing ", error.what()));
    }
  }
  Stream s;  // one model for all, as some values stay and others are fitted beside them
  comm_.wait(s, comm_.broadcast(s, "tune", {&tuning.costs, {sizeof tuning.costs}, DType::u8}, 0));
  const FittedOn here{spread_.hosts, spread_.of_host, cpu_name()};
  const auto fit_part = [&](const char* where, const std::vector<Way>& ways, bool inside) {
    const std::size_t first = inside ? 0 : CostModel::kInside;
    const std::size_t count = inside ? CostModel::kInside : CostModel::kBetween;
    const CostFit fit = fit_costs(measure(ways, inside), tuning.costs, first, count);
    tuning.costs = fit.model;
    (inside ? tuning.inside : tuning.between) = here;
    report(where, fit, here, first, count);
  };
  if (spread_.of_host > 1) fit_part("inside a host", {Way::mail, Way::slices}, /*inside=*/true);
  if (several_hosts()) {
    std::vector<Way> ways{Way::small, Way::doubling, Way::direct, Way::ring};
    if (spread_.of_host > 1) ways.insert(ways.end(), {Way::hosts_direct, Way::hosts_ring});
    fit_part("between hosts", ways, /*inside=*/false);
  }
  together(comm_, [&] {
    if (comm_.rank() != 0) return;
    if (path.has_parent_path()) make_folders(path.parent_path());
    write_file_atomically(path, print_tuning(tuning));
  });
  say_switches(path);
  progress_.say(cat("# stored in ", path.string()));
}

}  // namespace

void tune_collectives(const std::string& file, std::int64_t iterations, Communicator& comm) {
  std::filesystem::path path;
  together(comm, [&] {
    if (comm.world_size() < 2) fail_input("--tune", "1 rank; 2 and more are needed");
    path = path_for(file);
  });
  CollectivesTuner(iterations, comm).fit(path);
}

}  // namespace peal
