// What finding a record costs: globally, and within windows of shards.
//   build/data_bench
#include <benchmark/benchmark.h>

#include "core/data/sampler.h"

namespace {

void measure(benchmark::State& state, const peal::EpochOrder& order, std::int64_t records) {
  std::int64_t p = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(order.record(p));
    if (++p == records) p = 0;
  }
}

void global(benchmark::State& state) {
  const peal::Sampler sampler(state.range(0), 1, /*shuffle=*/true);
  measure(state, sampler.order(0), state.range(0));
}

// Shards of 10,000 records, 16 in a window.
std::vector<std::int64_t> starts_of(std::int64_t records) {
  std::vector<std::int64_t> starts;
  for (std::int64_t r = 0; r < records; r += 10'000) starts.push_back(r);
  starts.push_back(records);
  return starts;
}

void windows(benchmark::State& state) {
  const peal::Sampler sampler(starts_of(state.range(0)), 16, 1);
  measure(state, sampler.order(0), state.range(0));
}

void epoch_of_windows(benchmark::State& state) {
  const peal::Sampler sampler(starts_of(state.range(0)), 16, 1);
  std::int64_t epoch = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sampler.order(epoch++));
}

BENCHMARK(global)->Arg(60'000)->Arg(10'000'003)->Arg(1'000'000'007);
BENCHMARK(windows)->Arg(60'000)->Arg(10'000'003)->Arg(1'000'000'007);
BENCHMARK(epoch_of_windows)->Arg(10'000'003)->Arg(1'000'000'007);

}  // namespace

BENCHMARK_MAIN();
