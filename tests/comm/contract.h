// What every backend's Communicator must do, written once: the tests run it over threads and over
// MPI. Inputs are small integers, so that sums are exact and compared without tolerance.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "comm/buckets.h"
#include "comm/communicator.h"
#include "core/base/random.h"
#include "tests/comm/contract_types.h"

namespace peal::contract {

// Fewer counts, and every operation at the smallest only: for ranks that share a GPU, on which a
// call takes as long as it takes them to get their turns.
inline bool few_counts = false;

inline const std::vector<std::int64_t>& counts() {
  static const std::vector<std::int64_t> list{0, 1, 2, 7, 16, 17, 257, 1009, 4096, 200003};
  static const std::vector<std::int64_t> few{0, 1, 17, 1009, 200003};
  return few_counts ? few : list;
}

// Rank r's element i: 1, 2 or 3, so that sums are exact in every dtype; for bool, 0 or 1.
// Repeats itself after kPeriod elements.
inline constexpr std::int64_t kPeriod = 9;
template <typename T>
T value(int rank, std::int64_t i) {
  const std::int64_t mixed = (i * 5 + rank * 7 + i / 3 * rank) % 3;
  return make<T>(static_cast<double>(std::is_same_v<T, Truth> ? mixed % 2 : mixed + 1));
}

inline const std::vector<ReduceOp>& all_ops() {
  static const std::vector<ReduceOp> list{ReduceOp::sum, ReduceOp::mean, ReduceOp::min,
                                          ReduceOp::max, ReduceOp::product};
  return list;
}

template <typename T>
bool allows(ReduceOp op) {
  return op != ReduceOp::mean || !std::is_same_v<T, Truth>;
}

// All is exact in a double, but for the mean of an f32 and what a half type rounds at the end.
// Integers of 8 bits wrap around.
template <typename T>
T expected(ReduceOp op, int ranks, std::int64_t i) {
  double result = number(value<T>(0, i));
  for (int r = 1; r < ranks; ++r) {
    const double v = number(value<T>(r, i));
    if (op == ReduceOp::sum || op == ReduceOp::mean) result += v;
    if (op == ReduceOp::min) result = std::min(result, v);
    if (op == ReduceOp::max) result = std::max(result, v);
    if (op == ReduceOp::product) result *= v;
  }
  if constexpr (std::is_integral_v<T>) {
    const auto whole = static_cast<T>(static_cast<std::int64_t>(result));
    return op == ReduceOp::mean ? static_cast<T>(whole / static_cast<T>(ranks)) : whole;
  }
  if (op == ReduceOp::mean && std::is_same_v<T, double>) return make<T>(result / ranks);
  if (op == ReduceOp::mean) {
    return make<T>(static_cast<double>(static_cast<float>(result) / static_cast<float>(ranks)));
  }
  return make<T>(result);
}

template <typename T>
void fill(const Tensor& x, int rank, std::int64_t first = 0) {
  std::array<T, kPeriod> values;
  for (std::int64_t i = 0; i < kPeriod; ++i) values[i] = value<T>(rank, first + i);
  for (std::int64_t i = 0; i < x.numel(); ++i) x.as<T>()[i] = values[i % kPeriod];
}

// y holds elements [first, first + y.numel()) of the reduction over all ranks.
template <typename T>
void require_reduced(std::string_view what, const Tensor& y, ReduceOp op, int ranks,
                     std::int64_t first = 0) {
  std::array<double, kPeriod> wanted;
  for (std::int64_t i = 0; i < kPeriod; ++i) wanted[i] = number(expected<T>(op, ranks, first + i));
  for (std::int64_t i = 0; i < y.numel(); ++i) {
    const double want = wanted[i % kPeriod], got = number(y.as<T>()[i]);
    require(got == want, what, " ", static_cast<int>(op), " of ", y.numel(), " ",
            name_of(dtype_of<T>()), ": element ", i, " is ", got, ", not ", want);
  }
}

template <typename T>
void all_reduce_one(Communicator& comm, const Tensor& x, const Tensor& y, ReduceOp op,
                    Algorithm algorithm) {
  Stream s;
  fill<T>(x, comm.rank());
  comm.wait(s, comm.all_reduce(s, "sum", x, y, op, algorithm));
  require_reduced<T>("all_reduce", y, op, comm.world_size());
}

template <typename T>
void all_reduce(Communicator& comm) {
  const std::int64_t most = counts().back();
  const Buffer shared = comm.allocate(static_cast<std::size_t>(most) * sizeof(T));
  std::vector<T> own(static_cast<std::size_t>(most)), other(own);
  for (const std::int64_t count : counts()) {
    const Tensor x{own.data(), {count}, dtype_of<T>()}, y{other.data(), {count}, dtype_of<T>()};
    for (const Algorithm algorithm : {Algorithm::ring, Algorithm::ordered_tree}) {
      for (const ReduceOp op : all_ops()) {
        if (!allows<T>(op) || (count > (few_counts ? 17 : 5000) && op != ReduceOp::sum)) continue;
        all_reduce_one<T>(comm, x, y, op, algorithm);
        all_reduce_one<T>(comm, x, x, op, algorithm);
      }
    }
    const Tensor both = view<T>(shared, count);
    all_reduce_one<T>(comm, both, both, ReduceOp::sum, Algorithm::automatic);
  }
}

// 256 on one rank and 1 on the others: summed up in bf16 (in f16 with 2048) the ones would vanish.
template <typename T>
void half_sums_round_once(Communicator& comm) {
  const double big = std::is_same_v<T, F16> ? 2048 : 256;
  const int n = comm.world_size();
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::ordered_tree}) {
    for (int rank = 0; rank < n; ++rank) {
      Stream s;
      std::vector<T> x(1009, make<T>(comm.rank() == rank ? big : 1));
      comm.wait(s, comm.all_reduce(s, "halves", view(x), view(x), ReduceOp::sum, algorithm));
      const double want = number(make<T>(big + n - 1));
      for (const T& got : x) require(number(got) == want, number(got), ", not ", want);
    }
  }
}

// Values of mixed size and sign, whose sum depends on the order of addition.
inline float rough(int leaf, std::int64_t i) {
  const std::uint64_t bits =
      mix64(static_cast<std::uint64_t>(i) * 64 + static_cast<std::uint64_t>(leaf));
  const float size = bits % 8 == 0 ? 1000.0f : 1.0f;
  return size * (static_cast<float>(bits >> 40) / 8388608.0f - 1.0f);
}

// The definition, straight from tree.h.
inline float tree_sum(int begin, int end, std::int64_t i) {
  if (end - begin == 1) return rough(begin, i);
  int half = 1;
  while (half * 2 < end - begin) half *= 2;
  return tree_sum(begin, begin + half, i) + tree_sum(begin + half, end, i);
}

// The partial sums of this rank's block, laid out one after the other.
inline void fill_partials(const Communicator& comm, int virtual_ranks, float* partials,
                          std::int64_t stride, std::int64_t count) {
  const TreeNode block = block_of(virtual_ranks, comm.world_size(), comm.rank());
  for (const TreeNode& node : maximal_nodes(virtual_ranks, block)) {
    for (std::int64_t i = 0; i < count; ++i) partials[i] = tree_sum(node.begin, node.end, i);
    partials += stride;
  }
}

inline void require_tree_sum(const float* y, int virtual_ranks, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float want = tree_sum(0, virtual_ranks, i);
    require(std::memcmp(&y[i], &want, sizeof want) == 0, "tree sum over ", virtual_ranks,
            " virtual ranks: element ", i, " of ", count, " is ", y[i], ", not ", want);
  }
}

inline void tree_is_invariant(Communicator& comm, int most_virtual_ranks) {
  Stream s;
  for (int v = comm.world_size(); v <= most_virtual_ranks; ++v) {
    for (const std::int64_t count : {0, 1, 33, 2053, 4096}) {
      const TreeNode block = block_of(v, comm.world_size(), comm.rank());
      const std::size_t nodes = maximal_nodes(v, block).size();
      std::vector<float> memory(nodes * static_cast<std::size_t>(count) + 1);
      fill_partials(comm, v, memory.data(), count, count);
      std::vector<Tensor> partials;
      for (std::size_t k = 0; k < nodes; ++k) {
        partials.push_back({&memory[k * static_cast<std::size_t>(count)], {count}});
      }
      std::vector<float> apart(static_cast<std::size_t>(count) + 1);
      comm.wait(s, comm.all_reduce_tree(s, "tree", v, partials, {apart.data(), {count}}));
      require_tree_sum(apart.data(), v, count);
      comm.wait(s, comm.all_reduce_tree(s, "tree", v, partials, partials[0]));
      require_tree_sum(memory.data(), v, count);
    }
  }
}

// Each rank's block of that sum; blocks of many sizes, one of them empty.
inline void tree_scatters(Communicator& comm, int most_virtual_ranks) {
  Stream s;
  const int n = comm.world_size(), me = comm.rank();
  for (int v = n; v <= most_virtual_ranks; ++v) {
    for (const std::int64_t unit : {0, 1, 33, 2053, 40'009}) {
      if (unit > 5000 && v < most_virtual_ranks) continue;
      std::vector<std::int64_t> counts;
      std::int64_t total = 0, begin = 0;
      for (int r = 0; r < n; ++r) {
        counts.push_back((r + v) % 3 * unit + (r + v) % 3);
        if (r < me) begin += counts.back();
        total += counts.back();
      }
      const std::int64_t mine = counts[static_cast<std::size_t>(me)];
      const std::size_t nodes = maximal_nodes(v, block_of(v, n, me)).size();
      std::vector<float> memory(nodes * static_cast<std::size_t>(total) + 1);
      fill_partials(comm, v, memory.data(), total, total);
      std::vector<Tensor> partials;
      for (std::size_t k = 0; k < nodes; ++k) {
        partials.push_back({&memory[k * static_cast<std::size_t>(total)], {total}});
      }
      std::vector<float> apart(static_cast<std::size_t>(mine) + 1, -1);
      comm.wait(
          s, comm.reduce_scatter_tree(s, "scatter", v, partials, {apart.data(), {mine}}, counts));
      const Tensor in_place{memory.data() + begin, {mine}};
      const std::vector<float> before(memory.begin(), memory.begin() + total);
      comm.wait(s, comm.reduce_scatter_tree(s, "scatter", v, partials, in_place, counts));
      for (std::int64_t i = 0; i < total; ++i) {
        const bool own = i >= begin && i < begin + mine;
        const float want = own ? tree_sum(0, v, i) : before[static_cast<std::size_t>(i)];
        require(memory[static_cast<std::size_t>(i)] == want, "scattered tree sum over ", v,
                " virtual ranks: element ", i, " of ", total);
        const std::size_t k = static_cast<std::size_t>(i - begin);
        require(!own || apart[k] == want, "scattered tree sum apart, element ", i);
      }
    }
  }
}

// More calls than the queue has room for, all in flight, waited for from the back.
inline void calls_run_in_order(Communicator& comm) {
  constexpr int kCalls = 200;
  Stream s;
  std::vector<std::vector<float>> data(kCalls, std::vector<float>(37));
  std::vector<Request> requests;
  for (int i = 0; i < kCalls; ++i) {
    auto& x = data[static_cast<std::size_t>(i)];
    fill<float>(view(x), comm.rank());
    requests.push_back(comm.all_reduce(s, cat("call ", i), view(x), view(x), ReduceOp::sum));
  }
  for (int i = kCalls - 1; i >= 0; --i) {
    comm.wait(s, requests[static_cast<std::size_t>(i)]);
    require(comm.done(requests[static_cast<std::size_t>(i)]), "waited for, but not done");
    for (std::int64_t k = 0; k < 37; ++k) {
      const auto got = data[static_cast<std::size_t>(i)][static_cast<std::size_t>(k)];
      require(got == expected<float>(ReduceOp::sum, comm.world_size(), k), "call ", i);
    }
  }
  require(comm.done(Request()), "an empty request is done");
  comm.wait(s, Request());
}

// done() alone must see a call through, even if nobody waits.
inline void polling_makes_progress(Communicator& comm) {
  Stream s;
  std::vector<float> x(100, 1);
  const Request request = comm.all_reduce(s, "polled", view(x), view(x), ReduceOp::sum);
  while (!comm.done(request)) {
  }
  require(x[99] == static_cast<float>(comm.world_size()), "polled result");
}

// All of [0, bytes) in slices of up to 2000 bytes: in order, or shuffled in another way on every
// rank.
inline void become_final(GradientBuckets& buckets, std::size_t bytes, const Random& random,
                         bool shuffled) {
  Stream s;
  std::vector<std::size_t> ends{0};
  for (std::uint64_t k = 0; ends.back() < bytes; ++k) {
    ends.push_back(std::min<std::size_t>(ends.back() + random.u64(k) % 500 * sizeof(float), bytes));
  }
  std::vector<std::size_t> order(ends.size() - 1);
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
    if (shuffled) std::swap(order[i], order[random.u64(1'000'000 + i) % (i + 1)]);
  }
  for (const std::size_t i : order) {
    if (shuffled) {
      buckets.ready(s, ends[i], ends[i + 1]);
    } else {
      buckets.ready(s, ends[i + 1]);
    }
  }
}

// Every rank finds its gradients final at other moments; 200 buckets, several steps.
inline void buckets_match(Communicator& comm, Reduction reduction, int virtual_ranks) {
  constexpr std::int64_t kCount = 12'800;
  Stream s;
  GradientBuckets buckets(comm, kCount * sizeof(float), {256, reduction, virtual_ranks});
  require(buckets.bucket_count() >= 200, "only ", buckets.bucket_count(), " buckets");
  for (std::uint64_t step = 0; step < 3; ++step) {
    for (int p = 0; p < buckets.partials(); ++p) {
      auto* x = reinterpret_cast<float*>(buckets.partial(p));
      for (std::int64_t i = 0; i < kCount; ++i) x[i] = value<float>(comm.rank(), i);
    }
    if (reduction == Reduction::rank_invariant) {
      auto* first = reinterpret_cast<float*>(buckets.partial(0));
      const std::int64_t stride =
          buckets.partials() > 1 ? reinterpret_cast<float*>(buckets.partial(1)) - first : 0;
      fill_partials(comm, virtual_ranks, first, stride, kCount);
    }
    const Random random(
        {.seed = 3, .step = step, .stream = static_cast<std::uint64_t>(comm.rank())});
    become_final(buckets, kCount * sizeof(float), random, /*shuffled=*/step > 0);
    std::size_t covered = 0;
    buckets.finish(s, [&](std::size_t begin, std::size_t end) {
      require(begin == covered && end > begin, "bucket [", begin, ", ", end, ") after ", covered);
      covered = end;
    });
    require(covered == kCount * sizeof(float), "buckets end at ", covered);
    const auto* y = reinterpret_cast<const float*>(buckets.partial(0));
    if (reduction == Reduction::rank_invariant) {
      require_tree_sum(y, virtual_ranks, kCount);
    } else {
      for (std::int64_t i = 0; i < kCount; ++i) {
        require(y[i] == expected<float>(ReduceOp::sum, comm.world_size(), i), "bucket sum ", i);
      }
    }
  }
}

// Every rank gets its own slices of the sum of 25 buckets and the first whole.
inline void sharded_buckets_match(Communicator& comm, Reduction reduction, int virtual_ranks) {
  constexpr std::int64_t kCount = 12'816 + 5;
  Stream s;
  BucketOptions options{1024, reduction, virtual_ranks};
  options.sharding = BucketSharding{.whole_bytes = 64, .unit = 256};
  GradientBuckets buckets(comm, kCount * sizeof(float), options);
  const BucketShards& shards = *buckets.shards();
  require(shards.buckets() + 1 == buckets.bucket_count(), "one bucket is whole");
  const bool tree = reduction == Reduction::rank_invariant;
  for (std::uint64_t step = 0; step < 2; ++step) {
    for (int p = 0; p < buckets.partials(); ++p) {
      auto* x = reinterpret_cast<float*>(buckets.partial(p));
      for (std::int64_t i = 0; i < kCount; ++i) x[i] = value<float>(comm.rank(), i);
    }
    auto* y = reinterpret_cast<float*>(buckets.partial(0));
    const std::int64_t stride =
        buckets.partials() > 1 ? reinterpret_cast<float*>(buckets.partial(1)) - y : 0;
    if (tree) fill_partials(comm, virtual_ranks, y, stride, kCount);
    const Random random(
        {.seed = 4, .step = step, .stream = static_cast<std::uint64_t>(comm.rank())});
    become_final(buckets, kCount * sizeof(float), random, /*shuffled=*/step > 0);
    buckets.finish(s);
    const auto require_sum = [&](std::size_t begin, std::size_t end) {
      for (std::size_t at = begin; at < end; at += sizeof(float)) {
        const auto i = static_cast<std::int64_t>(at / sizeof(float));
        const float want = tree ? tree_sum(0, virtual_ranks, i)
                                : expected<float>(ReduceOp::sum, comm.world_size(), i);
        require(y[i] == want, "sharded bucket sum ", i, " is ", y[i], ", not ", want);
      }
    };
    require_sum(0, 64);
    for (std::size_t b = 0; b < shards.buckets(); ++b) {
      const ByteRange own = shards.slice(b, comm.rank());
      require_sum(own.begin, own.end);
    }
  }
}

}  // namespace peal::contract
