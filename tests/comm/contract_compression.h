// What gradient buckets must do when gradients are compressed on their way, over every backend.
#pragma once

#include <cmath>
#include <vector>

#include "tests/comm/contract.h"

namespace peal::contract {

// The tree of half values by its definition: each node's sum is made in f32 and rounded. Leaves are
// multiplied by a power of two before.
template <typename T>
float half_tree(int begin, int end, std::int64_t i, float scale = 1) {
  if (end - begin == 1) return static_cast<float>(number(make<T>(rough(begin, i) * scale)));
  int half = 1;
  while (half * 2 < end - begin) half *= 2;
  const float sum =
      half_tree<T>(begin, begin + half, i, scale) + half_tree<T>(begin + half, end, i, scale);
  return static_cast<float>(number(make<T>(static_cast<double>(sum))));
}

template <typename T>
void half_tree_is_invariant(Communicator& comm, int most_virtual_ranks) {
  Stream s;
  for (int v = comm.world_size(); v <= most_virtual_ranks; ++v) {
    for (const std::int64_t count : {1, 33, 2053}) {
      std::vector<std::vector<T>> sums;
      std::vector<Tensor> partials;
      for (const TreeNode& node : maximal_nodes(v, block_of(v, comm.world_size(), comm.rank()))) {
        std::vector<T>& sum = sums.emplace_back();
        for (std::int64_t i = 0; i < count; ++i) {
          sum.push_back(make<T>(half_tree<T>(node.begin, node.end, i)));
        }
      }
      for (std::vector<T>& sum : sums) partials.push_back(view(sum));
      comm.wait(s, comm.all_reduce_tree(s, "half tree", v, partials, partials[0]));
      for (std::int64_t i = 0; i < count; ++i) {
        const T want = make<T>(half_tree<T>(0, v, i)), got = sums[0][static_cast<std::size_t>(i)];
        require(got.bits == want.bits, "element ", i, " of ", count, " over ", v,
                " virtual ranks is ", number(got), ", not ", number(want));
      }
    }
  }
}

// The first values of the arena, which no compression touches.
inline constexpr std::int64_t kExact = 32;

inline void finish_all(GradientBuckets& buckets, std::int64_t count) {
  Stream s;
  buckets.ready(s, static_cast<std::size_t>(count) * sizeof(float));
  buckets.finish(s);
}

inline float* values(GradientBuckets& buckets, int partial = 0) {
  return reinterpret_cast<float*>(buckets.partial(partial));
}

// A node's sum from its leaves by add_nodes: whoever adds, the bits are those of the definition.
inline std::vector<float> node_sum(GradientBuckets& buckets, TreeNode node, std::int64_t count) {
  std::vector<float> sum(static_cast<std::size_t>(count));
  if (node.end - node.begin == 1) {
    for (std::int64_t i = 0; i < count; ++i)
      sum[static_cast<std::size_t>(i)] = rough(node.begin, i);
    return sum;
  }
  int half = 1;
  while (half * 2 < node.end - node.begin) half *= 2;
  sum = node_sum(buckets, {node.begin, node.begin + half}, count);
  const std::vector<float> right = node_sum(buckets, {node.begin + half, node.end}, count);
  buckets.add_nodes(reinterpret_cast<const std::byte*>(right.data()),
                    reinterpret_cast<std::byte*>(sum.data()), 0, sum.size() * sizeof(float));
  return sum;
}

template <typename T>
void half_buckets_are_invariant(Communicator& comm, int virtual_ranks, float scale) {
  constexpr std::int64_t kCount = 5003;
  BucketOptions options{8192, Reduction::rank_invariant, virtual_ranks, {}};
  options.compression = {.kind = Compression::Kind::half,
                         .wire = {dtype_of<T>(), scale},
                         .exact_bytes = kExact * sizeof(float)};
  GradientBuckets buckets(comm, kCount * sizeof(float), options);
  const auto nodes =
      maximal_nodes(virtual_ranks, block_of(virtual_ranks, comm.world_size(), comm.rank()));
  for (int step = 0; step < 2; ++step) {
    for (int p = 0; p < buckets.partials(); ++p) {
      const auto sum = node_sum(buckets, nodes[static_cast<std::size_t>(p)], kCount);
      std::copy(sum.begin(), sum.end(), values(buckets, p));
    }
    finish_all(buckets, kCount);
    for (std::int64_t i = 0; i < kCount; ++i) {
      const float want = i < kExact ? tree_sum(0, virtual_ranks, i)
                                    : half_tree<T>(0, virtual_ranks, i, scale) / scale;
      require(values(buckets)[i] == want, "element ", i, " is ", values(buckets)[i], ", not ",
              want);
    }
  }
}

// Summed in f32 and rounded once: sums of a few integers are exact, also where an integer is not
// one that 8 bits of mantissa hold.
template <typename T>
void half_buckets_round_once(Communicator& comm, Reduction reduction) {
  constexpr std::int64_t kCount = 5003;
  BucketOptions options{8192, reduction, 1, {}};
  options.compression = {.kind = Compression::Kind::half,
                         .wire = {dtype_of<T>(), 1},
                         .exact_bytes = kExact * sizeof(float)};
  GradientBuckets buckets(comm, kCount * sizeof(float), options);
  const auto term = [](int rank, std::int64_t i) {
    return static_cast<float>(257 + rank + i % 5);  // no bf16 is odd here
  };
  for (std::int64_t i = 0; i < kCount; ++i) values(buckets)[i] = term(comm.rank(), i);
  finish_all(buckets, kCount);
  for (std::int64_t i = 0; i < kCount; ++i) {
    double want = 0;
    for (int r = 0; r < comm.world_size(); ++r) {
      want += i < kExact ? term(r, i) : number(make<T>(term(r, i)));
    }
    if (i >= kExact) want = number(make<T>(want));
    require(values(buckets)[i] == want, "element ", i, " is ", values(buckets)[i], ", not ", want);
  }
}

// Each step's sum is right up to some half steps of the scales at work, and nothing is lost: what
// steps have summed and what ranks still hold are together all gradients there were.
inline void int8_buckets_lose_nothing(Communicator& comm, std::size_t block) {
  constexpr std::int64_t kCount = 5003;
  constexpr int kSteps = 6;
  const int n = comm.world_size();
  BucketOptions options{8192, Reduction::repeatable, 1, {}};
  options.compression = {
      .kind = Compression::Kind::int8, .block = block, .exact_bytes = kExact * sizeof(float)};
  GradientBuckets buckets(comm, kCount * sizeof(float), options);
  Stream s;
  std::vector<double> given(kCount), summed(kCount), left(kCount);
  for (int step = 0; step < kSteps; ++step) {
    const auto gradient = [&](int rank, std::int64_t i) {
      return rough(step * n + rank, i) / 1000;  // at most 1
    };
    for (std::int64_t i = 0; i < kCount; ++i) values(buckets)[i] = gradient(comm.rank(), i);
    finish_all(buckets, kCount);
    for (std::int64_t i = 0; i < kCount; ++i) {
      double want = 0;
      for (int r = 0; r < n; ++r) want += gradient(r, i);
      const double got = values(buckets)[i];
      // Of each rank: half a scale now, and the same of the step before; then the owner's.
      const double most = i < kExact ? 1e-5 : 4 * 1.05 * n / 254.0;
      require(std::fabs(got - want) <= most, "step ", step, " element ", i, ": ", got, ", not ",
              want);
      given[static_cast<std::size_t>(i)] += want;
      summed[static_cast<std::size_t>(i)] += got;
    }
  }
  const auto* error = reinterpret_cast<const float*>(buckets.error());
  for (std::size_t i = 0; i < left.size(); ++i) left[i] = error[i];
  comm.wait(s, comm.all_reduce(s, "left", view(left), view(left), ReduceOp::sum));
  std::vector<double> largest = summed;
  comm.wait(s, comm.all_reduce(s, "same", view(largest), view(largest), ReduceOp::max));
  bool some_left = false;
  for (std::size_t i = 0; i < left.size(); ++i) {
    require(largest[i] == summed[i], "element ", i, " differs between ranks");
    require(std::fabs(summed[i] + left[i] - given[i]) < 2e-5 * n, "element ", i, ": summed ",
            summed[i], ", left ", left[i], ", given ", given[i]);
    some_left |= left[i] != 0;
    require(i >= kExact || left[i] == 0, "exact element ", i, " has an error");
  }
  require(some_left, "nothing was left over: nothing was quantised");
}

inline void compressed_buckets(Communicator& comm) {
  half_tree_is_invariant<F16>(comm, 9);
  half_tree_is_invariant<Bf16>(comm, 9);
  for (const int v : {8, 11}) {
    half_buckets_are_invariant<Bf16>(comm, v, 1);
    half_buckets_are_invariant<F16>(comm, v, 8);
  }
  for (const Reduction reduction : {Reduction::repeatable, Reduction::fast}) {
    half_buckets_round_once<Bf16>(comm, reduction);
    half_buckets_round_once<F16>(comm, reduction);
  }
  int8_buckets_lose_nothing(comm, 256);
  int8_buckets_lose_nothing(comm, 20);
}

}  // namespace peal::contract
