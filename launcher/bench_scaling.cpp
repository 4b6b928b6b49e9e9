// `peal bench scaling`: how samples/s grow with the hosts, and would grow with more.
#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "comm/tree.h"
#include "core/base/error.h"
#include "core/config/job.h"
#include "launcher/bench.h"
#include "launcher/cli.h"
#include "launcher/job_setup.h"
#include "launcher/measure_collectives.h"
#include "launcher/measure_overlap.h"
#include "launcher/progress.h"
#include "launcher/rank_layout.h"
#include "launcher/scaling_model.h"
#include "launcher/train.h"

namespace peal {
namespace {

using OrderedJson = nlohmann::ordered_json;

struct ScalingArguments {
  JobArguments job;
  std::int64_t rounds = 5, steps = 5;
  bool model = false, json = false;
  std::vector<double> links{10, 100, 400};  // Gbit/s
  int most = 4096;                          // ranks
};

// Some of the ranks: the first hosts, or of one host the first ranks.
struct Point {
  int units = 1;  // hosts or ranks
  Spread spread;
  int threads = 1;  // that compute on the machine of rank 0
  int partials = 1;
  std::unique_ptr<Communicator> ranks;  // null on those that are left out
  JobSpec job;
  std::unique_ptr<OverlapBench> bench;
  OverlapTimes times;
  CostModel beside;  // of the sums of two, while the ranks of this point compute

  double samples_per_second() {
    return job.train().global_batch() / times.median(OverlapMode::overlapped);
  }
};

// Threads that compute as long as it lives.
class BusyCores {
 public:
  explicit BusyCores(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back(compute);
  }

 private:
  static void compute(const std::stop_token& stop) {
    volatile double value = 1;
    while (!stop.stop_requested()) {
      for (int i = 0; i < 10'000; ++i) value = value * 0.999 + 0.001;
    }
  }
  std::vector<std::jthread> threads_;
};

// What was measured of the link, with nothing computed beside it.
struct Link {
  CostModel costs;
  double core_seconds = 0;  // that a machine's cores are busy, for each byte that its ranks send
};

double busy_core_seconds() {
  std::ifstream file("/proc/stat");
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, interrupts = 0, soft = 0;
  file >> cpu >> user >> nice >> system >> idle >> wait >> interrupts >> soft;
  return (user + nice + system + interrupts + soft) / 100;  // USER_HZ
}

int cores() {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  return ::sched_getaffinity(0, sizeof mine, &mine) == 0 ? std::max(1, CPU_COUNT(&mine)) : 1;
}

class ScalingBench {
 public:
  ScalingBench(const ScalingArguments& arguments, const JobSpec& job, Communicator& comm)
      : arguments_(arguments),
        given_(job),
        comm_(comm),
        layout_(find_hosts(comm)),
        progress_(comm.rank() == 0, on_a_terminal()),
        tree_(job.parallel().reduction() == ParallelSpec::RANK_INVARIANT) {}

  void run();

 private:
  bool several_hosts() const { return layout_.spread.hosts > 1; }
  int units() const { return several_hosts() ? layout_.spread.hosts : comm_.world_size(); }
  int unit_of(int rank) const {
    return several_hosts() ? layout_.hosts[static_cast<std::size_t>(rank)] : rank;
  }
  int ranks_of_unit() const { return layout_.spread.of_host; }
  const char* unit() const { return several_hosts() ? "host" : "rank"; }

  void check() const;
  Point make_point(int units);
  void set_up(Point& point, const TrainingData& data);
  void measure();
  void meet();

  CostModel fit(Point& two) const;
  Link measure_link(Point& two) const;
  void measure_beside();
  std::vector<BucketSum> sums(const CostModel& costs, const CostModel& beside, const Spread& spread,
                              int partials) const;
  StepForecast forecast_of(Point& point, const StepProfile& alone, const Link& link) const;
  double sent_by_rank(const Spread& spread) const;

  void report(const Link* link);
  void say_head(const StepProfile& alone) const;
  void say_point(Point& point, const Link* link);
  void say_forecast(const StepProfile& alone, const Link& link) const;
  StepProfile profile(Point& point) const;

  const ScalingArguments& arguments_;
  const JobSpec& given_;
  Communicator& comm_;
  RankLayout layout_;
  Progress progress_;
  bool tree_;
  std::vector<Point> points_;
  std::size_t gradient_bytes_ = 0, bucket_bytes_ = 0;
};

void ScalingBench::check() const {
  if (comm_.world_size() == 1) {
    fail_input(
        "bench scaling",
        "1 rank is no scale; start it on several hosts, such as peal launch's --hosts, or on "
        "several ranks of this one: mpirun -np 4 peal bench scaling job.textproto");
  }
  const Spread& spread = layout_.spread;
  if (spread.hosts > 1 && spread.of_host != spread.rails) {
    fail_input("bench scaling", "hosts with ", spread.rails, " and ", spread.of_host,
               " ranks; every host needs as many");
  }
  if (arguments_.model && given_.parallel().has_compression()) {
    fail_input("bench scaling", "--model knows nothing of parallel.compression");
  }
}

Point ScalingBench::make_point(int units) {
  Point point;
  point.units = units;
  const int ranks = several_hosts() ? units * ranks_of_unit() : units;
  point.spread = several_hosts() ? Spread{ranks, units, ranks_of_unit(), ranks_of_unit()}
                                 : Spread{ranks, 1, ranks, ranks};
  const bool in = unit_of(comm_.rank()) < units;
  point.ranks = comm_.split(in ? 0 : Communicator::kNoGroup, comm_.rank());
  return point;
}

// Collective over all ranks, so that a job that is wrong ends them all alike.
void ScalingBench::set_up(Point& point, const TrainingData& data) {
  const std::int64_t most =
      2 * (1 + arguments_.rounds * arguments_.steps);  // overlapped and held steps
  point.job = given_;
  const int of_unit = given_.parallel().virtual_ranks() > 0 ? given_.parallel().virtual_ranks()
                      : several_hosts()                     ? ranks_of_unit()
                                                            : 1;
  point.job.mutable_parallel()->set_virtual_ranks(of_unit * point.units);
  point.job.mutable_train()->set_global_batch(given_.train().global_batch() * point.units);
  point.job.mutable_train()->set_max_steps(most);
  point.job.mutable_train()->set_epochs(1 << 20);
  together(comm_, [&] { validate_job(point.job, point.spread.ranks, "job"); });
  if (point.ranks) point.bench = std::make_unique<OverlapBench>(point.job, *point.ranks, data);
  for (int r = 0; r < point.spread.ranks; ++r) {
    const int all = point.job.parallel().virtual_ranks();
    const auto nodes = maximal_nodes(all, block_of(all, point.spread.ranks, r));
    point.partials = std::max(point.partials, static_cast<int>(nodes.size()));
  }
  if (!point.bench) return;
  point.threads = 0;
  for (int r = 0; r < comm_.world_size(); ++r) {
    const bool here = layout_.machines[static_cast<std::size_t>(r)] == layout_.machines[0];
    if (here && unit_of(r) < point.units) point.threads += point.bench->lanes();
  }
}

void ScalingBench::meet() {
  Stream s;
  comm_.wait(s, comm_.barrier(s, "round"));
}

void ScalingBench::measure() {
  for (std::int64_t round = 0; round <= arguments_.rounds; ++round) {
    for (Point& point : points_) {
      progress_.note(cat("round ", round, ", ", point.units, " ", unit(), "s ..."));
      meet();
      if (!point.bench) continue;
      for (const OverlapMode mode : kOverlapModes) {
        const double seconds = point.bench->measure(mode, round == 0 ? 1 : arguments_.steps);
        if (round > 0) point.times.of(mode).push_back(seconds);
      }
    }
  }
  meet();
}

// On the smallest number of hosts or ranks that have a link between them.
CostModel ScalingBench::fit(Point& two) const {
  CollectiveCase what;
  what.op = tree_ ? Collective::ordered_tree : Collective::all_reduce;
  what.seconds = 1;
  const auto large = static_cast<std::int64_t>(bucket_bytes_ / sizeof(float));
  const std::int64_t small = std::min<std::int64_t>(large / 4, 16 << 10);
  CollectiveBench bench(what, large, *two.ranks);
  const auto measured = [&](std::int64_t count) {
    return MeasuredSum{static_cast<double>(count) * sizeof(float),
                       bench.measure(count, /*in_place=*/true).median};
  };
  const MeasuredSum first = measured(small);
  return fit_link(first, measured(large), two.spread, tree_);
}

Link ScalingBench::measure_link(Point& two) const {
  Link link;
  link.costs = fit(two);
  // A second time, all calls of it, for the cores.
  std::vector<float> values(bucket_bytes_ / sizeof(float));
  const Tensor x{values.data(), {static_cast<std::int64_t>(values.size())}};
  Stream s;
  constexpr int kCalls = 20;
  const double before = busy_core_seconds();
  for (int i = 0; i < kCalls; ++i) {
    two.ranks->wait(s, two.ranks->all_reduce(s, "link", x, x, ReduceOp::sum));
  }
  const double bytes = kCalls * static_cast<double>(bucket_bytes_) * two.spread.ranks;
  link.core_seconds = (busy_core_seconds() - before) / bytes;
  return link;
}

// Once for each point, as its ranks may share cores with each other and with what sums need.
void ScalingBench::measure_beside() {
  for (Point& point : points_) {
    if (point.units == 1) continue;
    meet();
    const BusyCores busy(point.bench ? point.bench->lanes() : 0);
    if (points_[1].ranks) point.beside = fit(points_[1]);
    meet();
  }
}

std::vector<BucketSum> ScalingBench::sums(const CostModel& costs, const CostModel& beside,
                                          const Spread& spread, int partials) const {
  std::vector<BucketSum> buckets;
  for (std::size_t begin = 0; begin < gradient_bytes_; begin += bucket_bytes_) {
    const std::size_t end = std::min(begin + bucket_bytes_, gradient_bytes_);
    const Load load{static_cast<double>(end - begin), partials};
    buckets.push_back({end, seconds_of_sum(costs, load, spread, tree_),
                       seconds_of_sum(beside, load, spread, tree_)});
  }
  return buckets;
}

StepProfile ScalingBench::profile(Point& point) const {
  StepProfile alone{point.bench->ready_times(), point.bench->compute_seconds()};
  // The newest step, as long as the median one.
  const double scale = point.times.median(OverlapMode::compute) / alone.end;
  for (ReadyTime& ready : alone.ready) ready.seconds *= scale;
  alone.end *= scale;
  return alone;
}

StepForecast ScalingBench::forecast_of(Point& point, const StepProfile& alone,
                                       const Link& link) const {
  const std::vector<BucketSum> buckets =
      sums(link.costs, point.beside, point.spread, point.partials);
  double seconds = 0;
  for (const BucketSum& bucket : buckets) seconds += bucket.beside;
  const int ranks_here = point.threads / point.bench->lanes();
  const double busy =
      seconds > 0 ? link.core_seconds * ranks_here * static_cast<double>(gradient_bytes_) / seconds
                  : 0;
  return forecast(alone, buckets, /*overlapped=*/true,
                  speed_taken({.cores = cores(), .threads = point.threads, .sums = busy}));
}

void ScalingBench::say_head(const StepProfile& alone) const {
  if (arguments_.json) return;
  std::printf("# weak scaling: each %s does the job's batch of %d; gradients %s in buckets of %s\n",
              unit(), given_.train().global_batch(),
              human_bytes(static_cast<double>(gradient_bytes_)).c_str(),
              given_.parallel().bucket_size().c_str());
  std::printf(
      "# medians of %lld rounds of %lld steps, sizes and modes in turns; alone, backward "
      "ends after %.0f%% of a step\n",
      static_cast<long long>(arguments_.rounds), static_cast<long long>(arguments_.steps),
      100 * alone.ready.back().seconds / alone.end);
  std::printf("%5ss %6s %10s %9s %9s %9s %9s %11s %10s%s\n", unit(), "ranks", "ms a step",
              "compute", "sums", "hidden", "exposed", "samples/s", "efficiency",
              arguments_.model ? "     model    off" : "");
}

void ScalingBench::say_point(Point& point, const Link* link) {
  const double step = point.times.median(OverlapMode::overlapped),
               compute = point.times.median(OverlapMode::compute),
               held = point.times.median(OverlapMode::held);
  const double rate = point.samples_per_second();
  const double efficiency = rate / (point.units * points_[0].samples_per_second());
  OrderedJson line = {{"units", point.units},
                      {"unit", unit()},
                      {"ranks", point.spread.ranks},
                      {"global_batch", point.job.train().global_batch()},
                      {"step_ms", 1e3 * step},
                      {"compute_ms", 1e3 * compute},
                      {"sums_ms", 1e3 * (held - compute)},
                      {"hidden_ms", 1e3 * (held - step)},
                      {"exposed_ms", 1e3 * (step - compute)},
                      {"samples_per_second", rate},
                      {"efficiency", efficiency}};
  std::string model;
  if (link != nullptr) {
    const StepForecast expected = forecast_of(point, profile(point), *link);
    const double off = expected.seconds / step - 1;
    line["model_ms"] = 1e3 * expected.seconds;
    line["model_sums_ms"] = 1e3 * expected.sums;
    line["off"] = off;
    std::array<char, 64> text;
    std::snprintf(text.data(), text.size(), " %9.2f %+5.1f%%", 1e3 * expected.seconds, 100 * off);
    model = text.data();
  }
  if (arguments_.json) {
    std::puts(line.dump().c_str());
    return;
  }
  std::printf("%6d %6d %10.2f %9.2f %9.2f %9.2f %9.2f %11.0f %9.1f%%%s\n", point.units,
              point.spread.ranks, 1e3 * step, 1e3 * compute, 1e3 * (held - compute),
              1e3 * (held - step), 1e3 * (step - compute), rate, 100 * efficiency, model.c_str());
}

// Hosts as this one, with cores to spare for the sums.
void ScalingBench::say_forecast(const StepProfile& alone, const Link& link) const {
  const int of_host = several_hosts() ? ranks_of_unit() : comm_.world_size();
  if (!arguments_.json) {
    std::printf(
        "# forecast, %d rank%s a host: compute as on the first %s, a step of a message "
        "%.1f us as %s, links at their full speed, cores to spare for the sums\n",
        of_host, of_host == 1 ? "" : "s", unit(), 1e6 * link.costs.between.step,
        several_hosts() ? "measured" : "built in");
    std::printf("%6s", "ranks");
    for (const double gigabits : arguments_.links) std::printf(" %10g Gbit/s      ", gigabits);
    std::puts("");
  }
  for (int ranks = 8; ranks <= arguments_.most; ranks *= 2) {
    const int hosts = (ranks + of_host - 1) / of_host;
    if (!arguments_.json) std::printf("%6d", ranks);
    for (const double gigabits : arguments_.links) {
      CostModel costs = link.costs;
      costs.between.sent = 8e-9 / gigabits;
      const Spread spread =
          hosts > 1 ? Spread{ranks, hosts, of_host, of_host} : Spread{ranks, 1, ranks, ranks};
      const StepForecast expected = forecast(alone, sums(costs, costs, spread, /*partials=*/1),
                                             /*overlapped=*/true, /*taken=*/0);
      const double efficiency = alone.end / expected.seconds;
      if (arguments_.json) {
        std::puts(OrderedJson({{"forecast_ranks", ranks},
                               {"gigabits", gigabits},
                               {"step_ms", 1e3 * expected.seconds},
                               {"sums_ms", 1e3 * expected.sums},
                               {"exposed_ms", 1e3 * expected.exposed},
                               {"efficiency", efficiency}})
                      .dump()
                      .c_str());
      } else {
        std::printf(" %10.2f ms %5.1f%%  ", 1e3 * expected.seconds, 100 * efficiency);
      }
    }
    if (!arguments_.json) std::puts("");
  }
}

void ScalingBench::report(const Link* link) {
  const StepProfile alone = profile(points_[0]);
  say_head(alone);
  for (Point& point : points_) say_point(point, link);
  if (link != nullptr) say_forecast(alone, *link);
}

void ScalingBench::run() {
  together(comm_, [&] { check(); });
  JobSpec job = given_;
  job.mutable_data()->clear_test();
  job.mutable_data()->clear_shuffle_window_shards();  // a window that comes serves one trainer
  const TrainingData data = open_data(job, model_info(job.model()), comm_);
  for (int units_now = 1;; units_now = std::min(2 * units_now, units())) {
    points_.push_back(make_point(units_now));
    set_up(points_.back(), data);
    if (units_now == units()) break;
  }
  bucket_bytes_ = std::min<std::size_t>(
      static_cast<std::size_t>(parse_bytes(given_.parallel().bucket_size(), "bucket_size")),
      points_.back().bench->gradient_bytes());
  gradient_bytes_ = points_.back().bench->gradient_bytes();
  measure();
  Link link;
  if (arguments_.model && points_[1].ranks) link = measure_link(points_[1]);
  if (arguments_.model) measure_beside();
  meet();
  if (comm_.rank() == 0) report(arguments_.model ? &link : nullptr);
}

}  // namespace

void add_bench_scaling(CLI::App& bench) {
  auto arguments = std::make_shared<ScalingArguments>();
  CLI::App* command = bench.add_subcommand(
      "scaling", "how samples/s grow with the hosts, and, by a model, would grow with more");
  add_job_arguments(*command, arguments->job);
  const auto count = [&](const char* name, std::int64_t& value, const char* meaning) {
    command->add_option(name, value, meaning)
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
        ->capture_default_str();
  };
  count("--rounds", arguments->rounds, "rounds, in each of which every size has its turn");
  count("--steps", arguments->steps, "steps of each mode in a round");
  command->add_flag("--model", arguments->model,
                    "beside each line what a model expects from the compute and the link that it "
                    "measures, and then what it expects of more ranks");
  command->add_option("--links", arguments->links, "Gbit/s of the hosts of the forecast")
      ->delimiter(',')
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  command->add_option("--up-to", arguments->most, "ranks of the forecast")
      ->check(CLI::Range(8, 1 << 20))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "print one JSON object a line");
  command->footer(
      "Weak scaling: 1, 2, 4, ... hosts (on one host: ranks), each with the job's global batch "
      "and\n"
      "virtual ranks of its own. Compute is a step in which nothing is summed; sums, what a step\n"
      "takes more when they come after backward; of these, some are hidden beside it and some are\n"
      "exposed. A rank holds the model twice for each line.\n"
      "Examples:\n"
      "  mpirun -np 8 --host a:2,b:2,c:2,d:2 peal bench scaling job.textproto --model\n"
      "  mpirun -np 4 peal bench scaling job.textproto --set parallel.bucket_size=4MiB");
  command->callback([arguments] {
    const JobSpec job = read_job(arguments->job);
    with_ranks(arguments->job.local,
               [&](Communicator& comm) { ScalingBench(*arguments, job, comm).run(); });
  });
}

}  // namespace peal
