#include "core/data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "core/device/buffer.h"
#include "tests/data/support.h"

namespace peal {
namespace {

using testing::counting_dataset;
using ::testing::HasSubstr;
using testing::input_error;

std::shared_ptr<const Dataset> data_of(std::int64_t records) {
  return counting_dataset(records);
}

std::shared_ptr<const Preprocess> plain(const Dataset& data) {
  return std::make_shared<const Preprocess>(std::vector<PreprocessStep>{}, data);
}

// What a batch holds, copied.
struct Copy {
  std::vector<float> x, weight;
  std::vector<std::int32_t> labels;
  std::int64_t records = 0;
  bool operator==(const Copy&) const = default;
};

Copy copy(const Batch& batch) {
  Copy out;
  out.x.assign(batch.x.as<float>(), batch.x.as<float>() + batch.x.numel());
  out.weight.assign(batch.weight.as<float>(), batch.weight.as<float>() + batch.weight.numel());
  out.labels.assign(batch.labels.as<std::int32_t>(),
                    batch.labels.as<std::int32_t>() + batch.labels.numel());
  out.records = batch.records;
  return out;
}

using Key = std::tuple<std::int64_t, int, int>;  // step, virtual rank, part

// Takes everything of the block, one item after another.
std::map<Key, Copy> take_all(const std::shared_ptr<const Dataset>& data,
                             const LoaderOptions& options) {
  Loader loader(data, plain(*data), options);
  std::map<Key, Copy> all;
  for (std::int64_t s = options.first_step; s < options.last_step; ++s) {
    for (int v = options.first_virtual_rank; v < options.end_virtual_rank; ++v) {
      for (int a = 0; a < options.accumulate_steps; ++a) {
        const Batch& batch = loader.acquire(s, v, a);
        all[{s, v, a}] = copy(batch);
        loader.release(batch);
      }
    }
  }
  return all;
}

LoaderOptions options_of(std::int64_t global_batch, int virtual_ranks, int accumulate,
                         std::int64_t last_step) {
  LoaderOptions options;
  options.global_batch = global_batch;
  options.virtual_ranks = options.end_virtual_rank = virtual_ranks;
  options.accumulate_steps = accumulate;
  options.last_step = last_step;
  return options;
}

TEST(Loader, BatchesHaveShapesAndAlignedMemory) {
  const auto data = data_of(20);
  Loader loader(data, plain(*data), options_of(6, 2, 1, 3));
  const Batch& batch = loader.acquire(0, 1, 0);
  EXPECT_EQ(batch.x.shape, (Shape{3, 2, 3}));
  EXPECT_EQ(batch.labels.shape, Shape{3});
  EXPECT_EQ(batch.labels.dtype, DType::i32);
  EXPECT_EQ(batch.weight.shape, Shape{3});
  for (const void* p : {batch.x.data, batch.labels.data, batch.weight.data}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % kAlignment, 0u);
  }
  EXPECT_GT(loader.memory_bytes(), 0u);
  loader.release(batch);
}

// Rank counts 1 to 5, virtual ranks, accumulation and a ragged end: the blocks together hold each
// record of an epoch exactly once, and always in the same batches.
TEST(Loader, EveryRecordOncePerEpochAtEveryRankCount) {
  for (const auto& [records, batch, virtual_ranks, accumulate] :
       {std::tuple(100, 10, 5, 1), {103, 20, 5, 2}, {97, 24, 8, 3}, {7, 24, 6, 1}, {64, 8, 8, 1}}) {
    const auto data = data_of(records);
    const std::int64_t steps = Loader::steps_per_epoch(records, batch);
    const LoaderOptions whole = options_of(batch, virtual_ranks, accumulate, 2 * steps);
    const auto expected = take_all(data, whole);
    for (int epoch = 0; epoch < 2; ++epoch) {
      std::vector<int> seen(static_cast<std::size_t>(records));
      for (const auto& [key, item] : expected) {
        if (std::get<0>(key) / steps != epoch) continue;
        for (std::size_t i = 0; i < item.labels.size(); ++i) {
          if (item.weight[i] == 1) ++seen[static_cast<std::size_t>(item.labels[i])];
        }
      }
      EXPECT_EQ(seen, std::vector<int>(static_cast<std::size_t>(records), 1));
    }
    for (int n = 1; n <= std::min(5, virtual_ranks); ++n) {
      std::map<Key, Copy> together;
      for (int r = 0; r < n; ++r) {
        LoaderOptions part = whole;
        part.first_virtual_rank = r * virtual_ranks / n;
        part.end_virtual_rank = (r + 1) * virtual_ranks / n;
        together.merge(take_all(data, part));
      }
      EXPECT_EQ(together, expected) << n;
    }
  }
}

TEST(Loader, PositionsAreThoseOfTheContract) {
  const auto data = data_of(103);
  LoaderOptions options = options_of(24, 4, 2, 10);
  options.seed = 9;
  const Sampler sampler(103, 9, true);
  for (const auto& [key, item] : take_all(data, options)) {
    const auto [step, v, a] = key;
    for (std::int64_t i = 0; i < 3; ++i) {
      const std::int64_t position = step % 5 * 24 + (v * 2 + a) * 3 + i;
      const auto at = static_cast<std::size_t>(i);
      EXPECT_EQ(item.weight[at], position < 103 ? 1 : 0);
      const std::int64_t record = position < 103 ? sampler.record(step / 5, position) : 0;
      EXPECT_EQ(item.labels[at], record);
      for (std::size_t j = 0; j < 6; ++j) {
        EXPECT_EQ(item.x[at * 6 + j],
                  position < 103 ? static_cast<float>((record + static_cast<int>(j)) % 251) : 0);
      }
    }
  }
}

TEST(Loader, RaggedEndIsCountedWithoutCommunication) {
  EXPECT_EQ(Loader::steps_per_epoch(103, 24), 5);
  EXPECT_EQ(Loader::steps_per_epoch(96, 24), 4);
  for (const auto& [step, records] : {std::pair(0, 24), {3, 24}, {4, 7}, {5, 24}, {9, 7}}) {
    EXPECT_EQ(Loader::records_in_step(103, 24, step), records);
  }
  std::map<std::int64_t, std::int64_t> sums;
  for (const auto& [key, item] : take_all(data_of(103), options_of(24, 4, 2, 10))) {
    sums[std::get<0>(key)] += item.records;
  }
  for (const auto& [step, sum] : sums) EXPECT_EQ(sum, Loader::records_in_step(103, 24, step));
}

TEST(Loader, ResumesWithTheSameBatches) {
  const auto data = data_of(50);
  LoaderOptions options = options_of(8, 2, 2, 20);
  auto expected = take_all(data, options);
  std::erase_if(expected, [](const auto& item) { return std::get<0>(item.first) < 11; });
  options.first_step = 11;
  options.threads = 3;
  options.prefetch_batches = 9;
  EXPECT_EQ(take_all(data, options), expected);
}

TEST(Loader, FloatTargets) {
  const std::shared_ptr<const Dataset> data = testing::float_dataset({1}, {1, 2}, {0.25f, -3});
  LoaderOptions options = options_of(2, 1, 1, 1);
  options.integer_labels = false;
  options.shuffle = false;
  Loader loader(data, plain(*data), options);
  const Batch& batch = loader.acquire(0, 0, 0);
  ASSERT_EQ(batch.labels.dtype, DType::f32);
  EXPECT_EQ(batch.labels.as<float>()[0], 0.25f);
  EXPECT_EQ(batch.labels.as<float>()[1], -3);
  loader.release(batch);
}

// Lanes and preparing threads of every number, lanes in random order, some holding their batch
// while the others go on: the contents never change.
TEST(Loader, ContentsDoNotDependOnThreads) {
  const auto data = data_of(203);
  const LoaderOptions base = options_of(48, 8, 2, 12);
  const auto expected = take_all(data, base);
  for (const int threads : {0, 1, 4}) {
    for (const int prefetch : {0, 1, 32}) {
      LoaderOptions options = base;
      options.threads = threads;
      options.prefetch_batches = prefetch;
      Loader loader(data, plain(*data), options);
      std::map<Key, Copy> all;
      std::mutex mutex;
      for (std::int64_t step = 0; step < options.last_step; ++step) {
        std::vector<std::pair<int, int>> items;
        for (int v = 0; v < 8; ++v) {
          for (int a = 0; a < 2; ++a) items.emplace_back(v, a);
        }
        std::shuffle(items.begin(), items.end(), std::mt19937(static_cast<unsigned>(step)));
        std::atomic<std::size_t> next = 0;
        const auto lane = [&] {
          for (std::size_t i = next++; i < items.size(); i = next++) {
            const auto [v, a] = items[i];
            const Batch& batch = loader.acquire(step, v, a);
            if (i % 3 == 0) std::this_thread::yield();
            Copy held = copy(batch);
            loader.release(batch);
            const std::lock_guard lock(mutex);
            all[{step, v, a}] = std::move(held);
          }
        };
        std::thread other(lane), third(lane);
        lane();
        other.join();
        third.join();
      }
      EXPECT_EQ(all, expected) << threads << " threads, " << prefetch << " ahead";
    }
  }
}

// A whole step may be held at once, in any order.
TEST(Loader, ALaneMayHoldItsBatchWhileOthersGoOn) {
  const auto data = data_of(100);
  LoaderOptions options = options_of(20, 5, 2, 4);
  options.prefetch_batches = 1;
  Loader loader(data, plain(*data), options);
  for (std::int64_t step = 0; step < 4; ++step) {
    std::vector<const Batch*> held;
    for (int v = 4; v >= 0; --v) {
      for (int a = 1; a >= 0; --a) held.push_back(&loader.acquire(step, v, a));
    }
    for (const Batch* batch : held) loader.release(*batch);
  }
}

// With more accumulation than memory is meant for, only one part's batches are kept: items far
// ahead of the prefetched ones are prepared on demand and push those out, but never one that is
// held, even if it is the furthest.
TEST(Loader, PreparesOnDemandWhenAStepDoesNotFit) {
  const std::int64_t kWide = 100000;
  const std::shared_ptr<const Dataset> data =
      memory_dataset("wide", {kWide}, DType::u8, std::vector<std::byte>(10 * kWide, std::byte{3}),
                     {0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  LoaderOptions options = options_of(800, 2, 200, 2);  // 2 rows: 0.8 MB, a step 320 MB
  options.prefetch_batches = 2;
  Loader loader(data, plain(*data), options);
  EXPECT_LT(loader.memory_bytes(), std::size_t{8} << 20);
  for (std::int64_t step = 0; step < 2; ++step) {
    const Batch& held = loader.acquire(step, 1, 199);
    for (int v = 1; v >= 0; --v) {
      for (int a = 0; a < (v == 1 ? 199 : 200); ++a) {
        const Batch& batch = loader.acquire(step, v, a);
        EXPECT_EQ(batch.records, v == 0 && a < 5 ? 2 : 0);
        EXPECT_EQ(batch.x.as<float>()[kWide], batch.records > 0 ? 3 : 0);
        ASSERT_NE(&batch, &held);
        loader.release(batch);
      }
    }
    loader.release(held);
  }
}

TEST(Loader, ErrorsOfThePreparingThreadSurface) {
  std::vector<float> values(20, 1), labels(20, 0);
  values[13] = std::numeric_limits<float>::infinity();
  const std::shared_ptr<const Dataset> data = testing::float_dataset({1}, values, labels);
  LoaderOptions options = options_of(4, 1, 1, 5);
  options.shuffle = false;
  for (const int threads : {0, 2}) {
    options.threads = threads;
    Loader loader(data, plain(*data), options);
    for (std::int64_t step = 0; step < 5; ++step) {
      if (step == 3) {
        for (int twice = 0; twice < 2; ++twice) {
          EXPECT_THAT(input_error([&] { loader.acquire(3, 0, 0); }), HasSubstr("record 13"));
        }
        continue;
      }
      loader.release(loader.acquire(step, 0, 0));
    }
  }
}

TEST(Loader, LabelsThatAreNoClassNumbers) {
  const std::shared_ptr<const Dataset> data = testing::float_dataset({1}, {1, 2}, {0.5f, 1e30f});
  Loader loader(data, plain(*data), options_of(2, 2, 1, 1));
  EXPECT_THAT(input_error([&] { loader.acquire(0, 0, 0); }), HasSubstr("class number"));
  EXPECT_THAT(input_error([&] { loader.acquire(0, 1, 0); }), HasSubstr("class number"));
}

TEST(Loader, StopsAtAnyTime) {
  const auto data = data_of(1000);
  for (int i = 0; i < 60; ++i) {
    LoaderOptions options = options_of(64, 4, 1, 1000000);
    options.threads = 1 + i % 4;
    Loader loader(data, plain(*data), options);
    for (std::int64_t step = 0; step < i % 5; ++step) {
      for (int v = 0; v < 4; ++v) loader.release(loader.acquire(step, v, 0));
    }
    if (i % 2 == 0) loader.acquire(i % 5, 2, 0);  // held to the end
  }
}

TEST(Loader, AnEmptyWindowPreparesNothing) {
  const auto data = data_of(10);
  const Loader loader(data, plain(*data), options_of(2, 1, 1, 0));
  EXPECT_EQ(loader.memory_bytes(), 0u);
  EXPECT_EQ(loader.seconds_waited(), 0);
}

TEST(Loader, MisuseIsNamed) {
  const auto data = data_of(10);
  EXPECT_THAT(input_error([&] { Loader(data, plain(*data), options_of(10, 4, 1, 1)); }),
              HasSubstr("train.global_batch: 10; allowed are multiples of 4"));
  Loader loader(data, plain(*data), options_of(2, 2, 1, 50));
  EXPECT_THROW(loader.acquire(50, 0, 0), Error);
  EXPECT_THROW(loader.acquire(0, 2, 0), Error);
  EXPECT_THROW(loader.acquire(0, 0, 1), Error);
  const Batch& batch = loader.acquire(0, 0, 0);
  EXPECT_THROW(loader.acquire(0, 0, 0), Error);
  loader.release(batch);
  EXPECT_THROW(loader.release(batch), Error);
  EXPECT_THROW(loader.acquire(0, 0, 0), Error);
  // Virtual rank 1 is never taken: an error in the end, not a wait without one.
  EXPECT_THROW(
      {
        for (std::int64_t step = 1; step < 50; ++step) loader.release(loader.acquire(step, 0, 0));
      },
      Error);
}

}  // namespace
}  // namespace peal
