#include "launcher/open_records.h"

#include <chrono>
#include <numeric>
#include <thread>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/data/cached_shards.h"
#include "launcher/job_setup.h"
#include "launcher/progress.h"
#include "launcher/stop_signal.h"
#include "launcher/train.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kLine{5};  // between two lines about a long fetch

MakeSource source_of(const ShardsSpec& spec) {
  return [spec](std::function<bool()> stopped) {
    if (spec.url().empty()) return folder_source(spec.directory(), std::move(stopped));
    return http_source(spec.url(), {.connect_seconds = spec.connect_seconds(),
                                    .stall_seconds = spec.stall_seconds(),
                                    .ca_file = spec.ca_file(),
                                    .stopped = std::move(stopped)});
  };
}

// Rank 0 alone asks for it.
std::string shared_manifest(const ShardsSpec& spec, const RetryOptions& retries,
                            Communicator& comm) {
  std::string text;
  together(comm, [&] {
    if (comm.rank() == 0) {
      text = fetch_manifest(*source_of(spec)(StopSignal::asked), retries, StopSignal::asked);
    }
  });
  auto bytes = static_cast<std::int64_t>(text.size());
  Stream stream;
  const auto broadcast = [&](Tensor tensor) {
    comm.wait(stream, comm.broadcast(stream, "manifest of shards", tensor, /*root=*/0));
  };
  broadcast({.data = &bytes, .shape = {1}, .dtype = DType::i64});
  text.resize(static_cast<std::size_t>(bytes));
  broadcast({.data = text.data(), .shape = {bytes}, .dtype = DType::u8});
  return text;
}

CachedShardsOptions options_of(const ShardsSpec& spec, std::int64_t window_shards,
                               const RetryOptions& retries) {
  CachedShardsOptions options;
  options.cache.root = spec.cache();
  if (!spec.cache_size().empty()) {
    options.cache.limit =
        static_cast<std::uint64_t>(parse_bytes(spec.cache_size(), "shards.cache_size"));
  }
  options.cache.verify = spec.verify_cache();
  options.cache.wait_seconds = spec.wait_seconds();
  options.cache.stopped = StopSignal::asked;
  options.retries = retries;
  options.window_shards = window_shards;
  return options;
}

std::string fetch_text(const double (&sum)[3], Clock::time_point start, double first_missing) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const double come = first_missing - sum[1];
  std::string text =
      cat("fetching records: ", static_cast<int>(100 * (1 - sum[1] / sum[0])), "% of ",
          human_bytes(sum[0]), " on all ranks' hosts, ", human_bytes(come / seconds), "/s");
  if (come > 0) text += cat(", left ", clock_text(seconds * sum[1] / come));
  return text;
}

}  // namespace

bool is_fetched(const SourceSpec& spec) {
  return !spec.shards().url().empty() || !spec.shards().cache().empty();
}

std::shared_ptr<Dataset> open_records(const SourceSpec& spec, std::int64_t window_shards,
                                      std::uint64_t seed, Communicator& comm, const Say& say) {
  std::unique_ptr<Dataset> dataset;
  if (!is_fetched(spec)) {
    std::shared_ptr<Dataset> plain;
    together(comm, [&] { plain = open_source(spec); });
    return plain;
  }
  const ShardsSpec& shards = spec.shards();
  const RetryOptions retries{.tries = shards.tries(),
                             .backoff_seconds = shards.backoff_seconds(),
                             .seed = mix64(seed) + static_cast<std::uint64_t>(comm.rank())};
  const std::string manifest = shared_manifest(shards, retries, comm);
  // All ranks have looked for room before any takes some.
  together(comm, [&] {
    dataset =
        open_cached_shards(source_of(shards), manifest, options_of(shards, window_shards, retries));
    dataset = limit_records(std::move(dataset), spec.limit());
  });
  if (window_shards == 0) {
    std::vector<std::int64_t> all(dataset->shard_starts().size() - 1);
    std::iota(all.begin(), all.end(), std::int64_t{0});
    dataset->want(all, all.size());
    await_records(*dataset, comm, say);
  }
  return dataset;
}

void await_records(const Dataset& dataset, Communicator& comm, const Say& say) {
  const auto start = Clock::now();
  auto line = start + kLine;
  double first_missing = -1;
  for (auto pause = std::chrono::milliseconds(1);;
       pause = std::min(2 * pause, std::chrono::milliseconds(200))) {
    double sum[3] = {};
    together(comm, [&] {
      const Dataset::Arrival arrival = dataset.arrival();
      sum[0] = static_cast<double>(arrival.bytes);
      sum[1] = static_cast<double>(arrival.missing);
      sum[2] = static_cast<double>(arrival.fetched);
    });
    Stream stream;
    const Tensor sums{.data = sum, .shape = {3}, .dtype = DType::f64};
    comm.wait(stream, comm.all_reduce(stream, "missing records", sums, sums, ReduceOp::sum));
    if (sum[1] == 0) {
      if (comm.rank() == 0 && say && sum[2] > 0) {
        say(cat("fetched ", human_bytes(sum[2]), " of records to all hosts together"));
      }
      return;
    }
    if (first_missing < 0) first_missing = sum[1];
    if (comm.rank() == 0 && say && Clock::now() > line) {
      line = Clock::now() + kLine;
      say(fetch_text(sum, start, first_missing));
    }
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace peal
