#include "launcher/scaling_model.h"

#include <algorithm>

namespace peal {
namespace {

double ready_at(const StepProfile& alone, std::size_t bytes) {
  for (const ReadyTime& ready : alone.ready) {
    if (ready.bytes >= bytes) return ready.seconds;
  }
  return alone.ready.back().seconds;
}

}  // namespace

StepForecast forecast(const StepProfile& alone, std::span<const BucketSum> buckets, bool overlapped,
                      double taken) {
  const double backward = alone.ready.back().seconds, optimizer = alone.end - backward;
  const auto all = static_cast<double>(buckets.back().end);
  const double speed = 1 - taken;
  StepForecast result;
  std::vector<double> ends;
  double now = 0;
  double done = 0, computed = 0;  // of backward, as seconds alone; when that was done
  for (const BucketSum& bucket : buckets) {
    const double ready = overlapped ? ready_at(alone, bucket.end) : backward;
    if (done < ready) {  // meanwhile nothing is summed
      computed = now += ready - done;
      done = ready;
    }
    const double beside = bucket.beside > 0 ? bucket.beside : bucket.seconds;
    const double together = std::min(beside, (backward - done) / speed);
    if (together > 0) {
      computed = now += together;
      done += together * speed;
    }
    if (beside > 0) now += (1 - together / beside) * bucket.seconds;
    ends.push_back(now);
    result.sums += bucket.seconds;
  }
  result.seconds = computed + (backward - done);
  std::size_t begin = 0;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const double part = static_cast<double>(buckets[i].end - begin) / all;
    result.seconds = std::max(result.seconds, ends[i]) + part * optimizer;
    begin = buckets[i].end;
  }
  result.exposed = result.seconds - alone.end;
  return result;
}

double speed_taken(const CoreUse& use) {
  const double computing = std::min(use.threads, use.cores);
  const double left = std::min(computing, use.cores - use.sums);
  return std::clamp(1 - left / computing, 0.0, 0.95);
}

std::vector<Way> ways_of_sum(const Spread& spread, bool tree) {
  if (spread.hosts == 1) return {Way::slices};
  std::vector<Way> ways{Way::direct};
  if (spread.of_host > 1) ways.push_back(Way::hosts_direct);
  if (!tree) ways.push_back(Way::ring);
  if (!tree && spread.of_host > 1) ways.push_back(Way::hosts_ring);
  return ways;
}

double seconds_of_sum(const CostModel& model, const Load& load, const Spread& spread, bool tree) {
  if (spread.ranks == 1) return 0;
  double best = -1;
  for (const Way way : ways_of_sum(spread, tree)) {
    const double takes = seconds(model, way, load, spread);
    if (best < 0 || takes < best) best = takes;
  }
  return best;
}

CostModel fit_link(const MeasuredSum& small, const MeasuredSum& large, const Spread& spread,
                   bool tree) {
  CostModel model;
  const bool inside = spread.hosts == 1;
  double& wait = inside ? model.inside.meeting : model.between.step;
  double& byte = inside ? model.inside.copied : model.between.sent;
  // The quickest way depends on the costs: in turns, until neither moves.
  for (int turn = 0; turn < 50; ++turn) {
    const auto off = [&](const MeasuredSum& sum) {
      return sum.seconds - seconds_of_sum(model, {sum.bytes, 1}, spread, tree);
    };
    const auto slope = [&](double& cost, const MeasuredSum& sum) {
      const double before = seconds_of_sum(model, {sum.bytes, 1}, spread, tree), kept = cost;
      cost += 1e-9;
      const double after = seconds_of_sum(model, {sum.bytes, 1}, spread, tree);
      cost = kept;
      return (after - before) / 1e-9;
    };
    wait = std::max(0.0, wait + off(small) / slope(wait, small));
    byte = std::max(0.0, byte + off(large) / slope(byte, large));
  }
  return model;
}

}  // namespace peal
