// Gradient buckets: contiguous slices of the gradient arena, each reduced as soon as backward has
// finished it, while backward goes on with the rest.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/tree.h"

namespace peal {

enum class Reduction : std::uint8_t { rank_invariant, repeatable, fast };

struct BucketOptions {
  std::size_t bucket_bytes = std::size_t{1} << 20;
  Reduction reduction = Reduction::rank_invariant;
  int virtual_ranks = 1;
};

class GradientBuckets {
 public:
  // Collective. Makes one arena of `arena_bytes` per partial sum of this rank's block (rank
  // invariant: one for each of maximal_nodes; otherwise one), in memory that peers on this host
  // read directly.
  GradientBuckets(Communicator& comm, std::size_t arena_bytes, const BucketOptions& options);
  ~GradientBuckets();

  int partials() const;
  std::byte* partial(int index);  // the total lands in partial(0)

  // Every partial is final in [0, bytes_final): starts the buckets that this completes. Called
  // with growing values; the last one is arena_bytes.
  void ready(Stream& s, std::size_t bytes_final);
  // The same where gradients become final in an order that is not known: every partial is final in
  // [begin, end). The slices of a step come in any order, cover the arena and do not overlap;
  // buckets start in order.
  void ready(Stream& s, std::size_t begin, std::size_t end);
  // Makes `s` wait for every bucket in order, then forgets the step. `on_bucket`, if given, is
  // called with (begin, end) in bytes as each bucket is complete, so that the optimizer can start.
  void finish(Stream& s, const std::function<void(std::size_t, std::size_t)>& on_bucket = {});

  double seconds_waited() const;  // in finish, since construction
  std::size_t bucket_count() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
