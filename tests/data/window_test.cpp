// Shuffling within windows of shards, and what a loader tells the data set of them.
#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "core/base/random.h"
#include "core/data/loader.h"
#include "core/data/reading_order.h"
#include "tests/data/support.h"

namespace peal {
namespace {

using testing::counting_dataset;
using ::testing::HasSubstr;
using testing::input_error;

using Starts = std::vector<std::int64_t>;

// As write_shards cuts them: sizes differ by at most one.
Starts even(std::int64_t records, std::int64_t shards) {
  Starts starts = {0};
  for (std::int64_t i = 0; i < shards; ++i) {
    starts.push_back(starts.back() + records / shards + (i < records % shards ? 1 : 0));
  }
  return starts;
}

// Sizes from 1 to 40, without any order.
Starts ragged(std::int64_t shards, std::uint64_t seed) {
  const Random random({.seed = seed});
  Starts starts = {0};
  for (std::int64_t i = 0; i < shards; ++i) {
    const std::uint64_t draw = random.u64(static_cast<std::uint64_t>(i)) % 40;
    starts.push_back(starts.back() + 1 + static_cast<std::int64_t>(draw));
  }
  return starts;
}

std::int64_t shard_of(const Starts& starts, std::int64_t record) {
  return std::upper_bound(starts.begin(), starts.end(), record) - starts.begin() - 1;
}

std::vector<std::int64_t> records_of(const EpochOrder& order, std::int64_t records) {
  std::vector<std::int64_t> all;
  for (std::int64_t p = 0; p < records; ++p) all.push_back(order.record(p));
  return all;
}

// Every record once; windows follow one another, each of K shards (the last of what is left), and
// hold the records of their shards and no others.
void expect_windows(const Starts& starts, std::int64_t window_shards, std::uint64_t seed,
                    std::int64_t epoch) {
  const std::int64_t records = starts.back();
  const auto shards = static_cast<std::int64_t>(starts.size()) - 1;
  const Sampler sampler(starts, window_shards, seed);
  const EpochOrder order = sampler.order(epoch);
  ASSERT_EQ(order.windows(), (shards + window_shards - 1) / window_shards);
  std::set<std::int64_t> listed;
  std::int64_t p = 0;
  std::vector<bool> seen(static_cast<std::size_t>(records));
  for (std::int64_t w = 0; w < order.windows(); ++w) {
    const auto of_window = order.shards(w);
    ASSERT_EQ(static_cast<std::int64_t>(of_window.size()),
              std::min(window_shards, shards - w * window_shards));
    const std::set<std::int64_t> mine(of_window.begin(), of_window.end());
    listed.insert(mine.begin(), mine.end());
    std::int64_t size = 0;
    for (const std::int64_t s : mine) {
      size += starts[static_cast<std::size_t>(s) + 1] - starts[static_cast<std::size_t>(s)];
    }
    for (const std::int64_t end = p + size; p < end; ++p) {
      ASSERT_EQ(order.window(p), w);
      const std::int64_t record = order.record(p);
      ASSERT_TRUE(record >= 0 && record < records) << record;
      ASSERT_FALSE(seen[static_cast<std::size_t>(record)]) << "record " << record << " twice";
      seen[static_cast<std::size_t>(record)] = true;
      ASSERT_TRUE(mine.contains(shard_of(starts, record))) << "record " << record;
      if (p % 997 == 0) {
        ASSERT_EQ(record, sampler.record(epoch, p));
      }
    }
  }
  ASSERT_EQ(p, records);
  ASSERT_EQ(static_cast<std::int64_t>(listed.size()), shards);
}

TEST(Window, EveryRecordOnceForAnyNumberOfShards) {
  for (std::int64_t shards = 1; shards <= 40; ++shards) {
    for (const std::int64_t window : {1, 2, 3, 7, 39, 40, 1000}) {
      for (const std::int64_t records : {shards, 3 * shards + shards / 2, std::int64_t{997}}) {
        expect_windows(even(records, shards), window, 5, shards % 3);
      }
      expect_windows(ragged(shards, 9), window, 6, 1);
    }
  }
  expect_windows(even(1000003, 977), 16, 1, 0);
}

// One huge shard among small ones: the guess of a window is then far off.
TEST(Window, ShardsOfVeryDifferentSizes) {
  Starts starts = {0};
  for (std::int64_t i = 0; i < 60; ++i) starts.push_back(starts.back() + (i % 20 == 7 ? 5000 : 3));
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) expect_windows(starts, 4, 2, epoch);
}

TEST(Window, DiffersByEpochSeedAndWindow) {
  const Starts starts = even(1000, 13);
  const auto of = [&](std::int64_t window, std::uint64_t seed, std::int64_t epoch) {
    const Sampler sampler(starts, window, seed);
    return records_of(sampler.order(epoch), 1000);
  };
  EXPECT_NE(of(4, 1, 0), of(4, 1, 1));
  EXPECT_NE(of(4, 1, 0), of(4, 2, 0));
  EXPECT_NE(of(4, 1, 0), of(5, 1, 0));
  EXPECT_EQ(of(4, 1, 3), of(4, 1, 3));
  // Shards change their places, and records theirs inside a shard.
  const Sampler sampler(starts, 1, 1);
  std::set<std::int64_t> first;
  for (std::int64_t epoch = 0; epoch < 20; ++epoch) first.insert(sampler.order(epoch).shards(0)[0]);
  EXPECT_GT(first.size(), 5u);
  std::vector<std::int64_t> within;
  for (std::int64_t p = 0; p < 70; ++p) within.push_back(sampler.order(0).record(p));
  EXPECT_FALSE(std::is_sorted(within.begin(), within.end()));
}

// The order is part of every saved job: it must never change.
TEST(Window, OrderIsPinned) {
  const Sampler sampler(Starts{0, 3, 6, 8, 10}, 2, 1);
  const auto print = [&](std::int64_t epoch) { return records_of(sampler.order(epoch), 10); };
  EXPECT_EQ(print(0), (std::vector<std::int64_t>{6, 8, 7, 9, 2, 5, 3, 4, 1, 0}));
  EXPECT_EQ(print(1), (std::vector<std::int64_t>{3, 8, 5, 4, 9, 6, 1, 2, 0, 7}));
}

TEST(Window, RefusesWhatIsOutside) {
  const Sampler sampler(even(10, 3), 2, 1);
  EXPECT_THROW(sampler.order(0).record(10), Error);
  EXPECT_THROW(sampler.order(0).record(-1), Error);
  EXPECT_THROW(Sampler(Starts{}, 2, 1), Error);
  EXPECT_THROW(Sampler(Starts{0, 5, 5}, 2, 1), Error);
  EXPECT_THROW(Sampler(Starts{0, 5}, 0, 1), Error);
}

// Remembers what it was told, and fails a record that is not on the list.
class Listening final : public Dataset {
 public:
  Listening(Starts starts) : starts_(std::move(starts)), data_(counting_dataset(starts_.back())) {}

  std::int64_t size() const override { return data_->size(); }
  const Shape& record_shape() const override { return data_->record_shape(); }
  DType record_dtype() const override { return data_->record_dtype(); }
  const void* record(std::int64_t index) const override {
    const std::lock_guard lock(mutex_);
    if (!listed_.contains(shard_of(starts_, index))) ++strays_;
    return data_->record(index);
  }
  float label(std::int64_t index) const override { return data_->label(index); }
  const std::string& name() const override { return data_->name(); }
  std::span<const std::int64_t> shard_starts() const override { return starts_; }
  void want(std::span<const std::int64_t> shards, std::size_t now) const override {
    const std::lock_guard lock(mutex_);
    listed_ = {shards.begin(), shards.end()};
    most_ = std::max(most_, shards.size());
    EXPECT_EQ(listed_.size(), shards.size()) << "a shard is listed twice";
    EXPECT_GE(shards.size(), now);
    ahead_ += shards.size() > now ? 1 : 0;
    ++told_;
  }

  int told() const { return told_; }
  int ahead() const { return ahead_; }
  int strays() const { return strays_; }
  std::size_t most() const { return most_; }

 private:
  Starts starts_;
  std::unique_ptr<Dataset> data_;
  mutable std::mutex mutex_;
  mutable std::set<std::int64_t> listed_;
  mutable std::size_t most_ = 0;
  mutable int told_ = 0, ahead_ = 0, strays_ = 0;
};

LoaderOptions window_options(std::int64_t batch, int virtual_ranks, std::int64_t window,
                             std::int64_t last_step) {
  LoaderOptions options;
  options.global_batch = batch;
  options.virtual_ranks = options.end_virtual_rank = virtual_ranks;
  options.window_shards = window;
  options.last_step = last_step;
  return options;
}

// Labels of weight 1, by (step, virtual rank).
std::map<std::pair<std::int64_t, int>, std::vector<int>> labels_of(
    const std::shared_ptr<const Dataset>& data, const LoaderOptions& options) {
  const auto steps = std::make_shared<Preprocess>(std::vector<PreprocessStep>{}, *data);
  Loader loader(data, steps, options);
  std::map<std::pair<std::int64_t, int>, std::vector<int>> all;
  for (std::int64_t s = options.first_step; s < options.last_step; ++s) {
    for (int v = options.first_virtual_rank; v < options.end_virtual_rank; ++v) {
      const Batch& batch = loader.acquire(s, v, 0);
      const auto* labels = batch.labels.as<const std::int32_t>();
      all[{s, v}].assign(labels, labels + batch.records);
      loader.release(batch);
    }
  }
  return all;
}

TEST(Window, ALoaderReadsOnlyWhatItListed) {
  for (const int threads : {0, 1, 3}) {
    const auto data = std::make_shared<const Listening>(even(1000, 20));
    LoaderOptions options = window_options(40, 4, 3, 75);  // three epochs
    options.threads = threads;
    const auto all = labels_of(data, options);
    EXPECT_EQ(all.size(), 300u);
    EXPECT_EQ(data->strays(), 0);
    EXPECT_GE(data->told(), 20);  // 21 windows
    EXPECT_GE(data->ahead(), 15);
    EXPECT_LE(data->most(), 9u);  // a step may lie across two windows, and one is ahead
  }
}

TEST(Window, EveryRankCountAndEveryResumeReadsTheSame) {
  const auto data = std::make_shared<const Listening>(even(1003, 17));
  const LoaderOptions whole = window_options(48, 6, 4, 42);
  const auto expected = labels_of(data, whole);
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<int> seen(1003);
    for (const auto& [key, labels] : expected) {
      for (const int label : labels)
        seen[static_cast<std::size_t>(label)] += key.first / 21 == epoch;
    }
    EXPECT_EQ(seen, std::vector<int>(1003, 1));
  }
  for (const int n : {2, 3, 4}) {
    std::map<std::pair<std::int64_t, int>, std::vector<int>> together;
    for (int r = 0; r < n; ++r) {
      LoaderOptions part = whole;
      part.first_virtual_rank = r * 6 / n;
      part.end_virtual_rank = (r + 1) * 6 / n;
      LoaderOptions rest = part;  // as if stopped after step 17 and resumed
      part.last_step = rest.first_step = 17;
      together.merge(labels_of(data, part));
      together.merge(labels_of(data, rest));
    }
    EXPECT_EQ(together, expected) << n;
  }
}

TEST(Window, NeedsShards) {
  const std::shared_ptr<const Dataset> data = counting_dataset(100);
  const auto steps = std::make_shared<Preprocess>(std::vector<PreprocessStep>{}, *data);
  EXPECT_THAT(input_error([&] { Loader(data, steps, window_options(10, 1, 2, 5)); }),
              HasSubstr("is not in shards"));
}

TEST(Window, LabelsOutsideOfTheClassesAreRefusedWhenTheyAreRead) {
  const auto data = std::make_shared<const Listening>(even(100, 5));
  LoaderOptions options = window_options(10, 1, 2, 10);
  options.label_end = 60;
  EXPECT_THAT(input_error([&] { labels_of(data, options); }),
              ::testing::AllOf(HasSubstr("has label"), HasSubstr("from 0 to 59")));
}

TEST(Window, ALimitCutsShards) {
  class InShards final : public Dataset {
   public:
    std::int64_t size() const override { return data_->size(); }
    const Shape& record_shape() const override { return data_->record_shape(); }
    DType record_dtype() const override { return data_->record_dtype(); }
    const void* record(std::int64_t index) const override { return data_->record(index); }
    float label(std::int64_t index) const override { return data_->label(index); }
    const std::string& name() const override { return data_->name(); }
    std::span<const std::int64_t> shard_starts() const override { return starts_; }

   private:
    std::unique_ptr<Dataset> data_ = counting_dataset(100);
    Starts starts_ = even(100, 10);
  };
  for (const auto& [limit, shards] : {std::pair(45, 5), {50, 5}, {51, 6}, {1, 1}}) {
    const std::shared_ptr<Dataset> cut = limit_records(std::make_unique<InShards>(), limit);
    const Starts starts(cut->shard_starts().begin(), cut->shard_starts().end());
    EXPECT_EQ(starts.size(), static_cast<std::size_t>(shards) + 1);
    EXPECT_EQ(starts.back(), limit);
    expect_windows(starts, 2, 3, 0);
  }
}

}  // namespace
}  // namespace peal
