// Slices of the optimizer's state: the norm, the parameters and the checkpoint of a rank that has
// all, from ranks that have parts.
#include "launcher/optimizer_shards.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "comm/buckets.h"
#include "core/base/random.h"
#include "core/kernels/kernels.h"
#include "core/optim/optimizer.h"
#include "tests/allocations.h"

namespace peal {
namespace {

constexpr std::size_t kUnit = Kernels::kNormBlock * sizeof(float);
constexpr std::size_t kSlots = 128;

// Parameters with gaps between them, one longer than a bucket.
ParameterTable table() {
  ParameterTable t;
  Arena arena;
  t.slots_end = arena.reserve(kSlots) + kSlots;
  for (const std::int64_t n : {7, 90'001, 4096, 1, 20'000}) {
    t.parameters.push_back(
        {"p" + std::to_string(n), {n}, arena.reserve(static_cast<std::size_t>(n) * 4)});
  }
  t.gradient_bytes = arena.size();
  return t;
}

BucketOptions options(const ParameterTable& t) {
  BucketOptions o{2 * kUnit, Reduction::rank_invariant, 9};
  o.sharding = BucketSharding{.whole_bytes = t.slots_end, .unit = kUnit};
  return o;
}

float draw(std::size_t i) {
  return static_cast<float>(Random({.seed = 5}).normal(i));
}

std::vector<float> whole_arena(const ParameterTable& t) {
  std::vector<float> values(t.gradient_bytes / 4, 0);
  for (const ArenaEntry& e : t.parameters) {
    for (std::int64_t i = 0; i < e.shape.numel(); ++i) {
      const std::size_t at = e.offset / 4 + static_cast<std::size_t>(i);
      values[at] = draw(at);
    }
  }
  return values;
}

struct Rank {
  explicit Rank(Communicator& c)
      : comm(c),
        buckets(c, t.gradient_bytes, options(t)),
        shards(*buckets.shards(), c, c, t, kCpu) {}

  Communicator& comm;
  ParameterTable t = table();
  GradientBuckets buckets;
  OptimizerShards shards;
};

class OptimizerShardsTest : public ::testing::TestWithParam<int> {};

// This rank's slices alone are what the whole arena holds; elsewhere is something else.
std::vector<float> own_slices(const Rank& rank, const std::vector<float>& whole) {
  std::vector<float> mine(whole.size(), 1e9f);
  for (std::size_t b = 0; b < rank.shards.buckets(); ++b) {
    const ByteRange slice = rank.shards.slice(b);
    std::copy(whole.begin() + static_cast<std::ptrdiff_t>(slice.begin / 4),
              whole.begin() + static_cast<std::ptrdiff_t>(slice.end / 4),
              mine.begin() + static_cast<std::ptrdiff_t>(slice.begin / 4));
  }
  return mine;
}

TEST_P(OptimizerShardsTest, TheNormIsThatOfTheWholeArena) {
  const ParameterTable t = table();
  std::vector<float> whole = whole_arena(t);
  // Next to the second block the others vanish, but for those that are added up before it.
  for (std::size_t i = kSlots / 4 + 4096; i < kSlots / 4 + 8192; ++i) whole[i] *= 1e8f;
  const auto trained = static_cast<std::int64_t>((t.gradient_bytes - t.slots_end) / 4);
  const std::int64_t blocks = norm_blocks(trained);
  const auto norm_of = [&](std::vector<double>& sums, Tensor order) {
    double norm = 0;
    float factor = 0;
    Stream s;
    kernels(kCpu).clip(s, {.data = sums.data(), .shape = {blocks}, .dtype = DType::f64}, order, 1,
                       /*scale=*/{}, {.data = &norm, .shape = {1}, .dtype = DType::f64},
                       {.data = &factor, .shape = {1}});
    return norm;
  };
  Stream s;
  std::vector<double> sums(static_cast<std::size_t>(blocks));
  kernels(kCpu).sum_squares(s, {.data = whole.data() + kSlots / 4, .shape = {trained}},
                            {.data = sums.data(), .shape = {blocks}, .dtype = DType::f64});
  const double wanted = norm_of(sums, {});
  double in_order = 0;
  for (const double sum : sums) in_order += sum;
  EXPECT_EQ(wanted, std::sqrt(in_order));  // to the bit
  run_local_ranks(GetParam(), [&](Communicator& comm) {
    Rank rank(comm);
    std::vector<float> mine = own_slices(rank, whole);
    std::vector<double> gathered(sums.size());
    Stream stream;
    rank.shards.sum_squares(stream, reinterpret_cast<std::byte*>(mine.data()),
                            {.data = gathered.data(), .shape = {blocks}, .dtype = DType::f64});
    std::vector<std::int64_t> order = rank.shards.block_order();
    ASSERT_EQ(order.size(), sums.size());
    EXPECT_EQ(norm_of(gathered, {.data = order.data(), .shape = {blocks}, .dtype = DType::i64}),
              wanted);
  });
}

TEST_P(OptimizerShardsTest, EveryRankGetsTheParametersOfAllWithoutTheHeap) {
  const std::vector<float> whole = whole_arena(table());
  std::atomic<std::int64_t> taken{-1};
  run_local_ranks(GetParam(), [&](Communicator& comm) {
    Rank rank(comm);
    std::vector<float> mine = own_slices(rank, whole);
    const Buffer room(1 << 16);
    const Tensor sums{.data = room.data(),
                      .shape = {static_cast<std::int64_t>(rank.shards.block_order().size())},
                      .dtype = DType::f64};
    auto* arena = reinterpret_cast<std::byte*>(mine.data());
    Stream s;
    const auto step = [&] {
      for (std::size_t b = 0; b < rank.shards.buckets(); ++b) rank.shards.share(s, b, arena);
      rank.shards.finish_sharing(s);
      rank.shards.sum_squares(s, arena, sums);
    };
    step();
    for (std::size_t i = kSlots / 4; i < whole.size(); ++i) ASSERT_EQ(mine[i], whole[i]) << i;
    comm.wait(s, comm.barrier(s, "warm"));
    const auto steps = [&] {
      for (int i = 0; i < 10; ++i) step();
      comm.wait(s, comm.barrier(s, "end"));
    };
    if (comm.rank() == 0) {
      taken = count_allocations(steps);  // of all ranks
    } else {
      steps();
    }
    comm.wait(s, comm.barrier(s, "looked"));
  });
  EXPECT_EQ(taken, 0);
}

// Tensors of a checkpoint, given out in slices, collected and compared; one rank's slices alone are
// what is in its memory.
TEST_P(OptimizerShardsTest, StatesGoOutAndComeBackAsTheyWere) {
  run_local_ranks(GetParam(), [&](Communicator& comm) {
    Rank rank(comm);
    constexpr std::size_t kStates = 2;
    std::vector<std::vector<float>> saved_values, room_values;
    std::vector<NamedTensor> saved, room;
    for (std::size_t state = 0; state < kStates; ++state) {
      for (const ArenaEntry& e : rank.t.parameters) {
        const auto n = static_cast<std::size_t>(e.shape.numel());
        saved_values.emplace_back(n);
        for (std::size_t i = 0; i < n; ++i) {
          saved_values.back()[i] = draw(e.offset / 4 + i) + static_cast<float>(state);
        }
        room_values.emplace_back(n, -1.0f);
      }
    }
    for (std::size_t i = 0; i < saved_values.size(); ++i) {
      const Shape& shape = rank.t.parameters[i % rank.t.parameters.size()].shape;
      saved.push_back({"x", {.data = saved_values[i].data(), .shape = shape}});
      room.push_back({"x", {.data = room_values[i].data(), .shape = shape}});
    }
    const bool first = comm.rank() == 0;
    std::vector<Mirror> states;
    for (std::size_t i = 0; i < kStates; ++i) states.emplace_back(rank.shards.state_bytes(), kCpu);
    Stream s;
    rank.shards.give(s, first ? saved : std::vector<NamedTensor>{}, states);
    const std::vector<float> whole = whole_arena(rank.t);
    for (std::size_t b = 0; b < rank.shards.buckets(); ++b) {
      const ByteRange slice = rank.shards.slice(b);
      EXPECT_EQ(
          std::memcmp(states[0].host() + rank.shards.place(b),
                      reinterpret_cast<const std::byte*>(whole.data()) + slice.begin, slice.size()),
          0)
          << b;
    }
    rank.shards.collect(s, states, {});  // nobody wants them
    rank.shards.collect(s, states, first ? room : std::vector<NamedTensor>{});
    if (!first) return;
    EXPECT_EQ(room_values, saved_values);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, OptimizerShardsTest, ::testing::Values(1, 2, 3, 4, 9));

}  // namespace
}  // namespace peal
