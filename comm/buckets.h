// Gradient buckets: contiguous slices of the gradient arena, each reduced as soon as backward has
// finished it, while backward goes on with the rest.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/bucket_shards.h"
#include "comm/communicator.h"
#include "comm/tree.h"
#include "comm/wire.h"

namespace peal {

enum class Reduction : std::uint8_t { rank_invariant, repeatable, fast };

// What gradients become to travel. Sums are f32 before and after.
//   half  16 bits: rank_invariant rounds the sum of every node of the tree (all_reduce_tree), the
//         others add up in f32 and round once. Throws Error(numeric) on every rank when an f16
//         leaves its range.
//   int8  8 bits and a scale for each block of values, exchanged and quantised again by the owner
//         of a slice; what rounding leaves is kept and added in the next step (error feedback).
//         repeatable and fast only. Throws Error(numeric) when a gradient is not finite.
struct Compression {
  enum class Kind : std::uint8_t { none, half, int8 };
  Kind kind = Kind::none;
  Wire wire;                    // half
  std::size_t block = 256;      // int8: a multiple of 4, at most 4096
  std::size_t exact_bytes = 0;  // at the start of the arena, travel as f32; a multiple of 64
};

// Every rank gets the sum of its own slices only (BucketShards), but for what begins the arena.
struct BucketSharding {
  std::size_t whole_bytes = 0;  // at the start of the arena: a bucket that all ranks get whole
  // Buckets and slices are multiples of so many bytes, counted from there; a multiple of 64.
  std::size_t unit = kAlignment;
};

struct BucketOptions {
  std::size_t bucket_bytes = std::size_t{1} << 20;
  Reduction reduction = Reduction::rank_invariant;
  int virtual_ranks = 1;
  Compression compression = {};
  std::optional<BucketSharding> sharding = {};  // not with compression
};

class GradientBuckets {
 public:
  // Collective. Makes one arena of `arena_bytes` per partial sum of this rank's block (rank
  // invariant: one for each of maximal_nodes; otherwise one), in memory that peers on this host
  // read directly. Throws Error(input) for a compression that is not as its description says.
  GradientBuckets(Communicator& comm, std::size_t arena_bytes, const BucketOptions& options);
  ~GradientBuckets();

  int partials() const;
  std::byte* partial(int index);  // the total lands in partial(0), sharded: the own slices of it
  const BucketShards* shards() const;  // of all buckets but the first; nullptr: not sharded
  std::size_t bytes() const;           // of all memory held here

  // into += from over bytes [begin, end) of two arenas: the sum of two nodes of the tree, with the
  // rounding that they get when two ranks hold them. Who adds up nodes in other ways gets other
  // bits with other numbers of ranks. f32 addition where nothing rounds.
  void add_nodes(const std::byte* from, std::byte* into, std::size_t begin, std::size_t end) const;

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

  // int8: what this rank's next gradients get added, an arena in its layout; nullptr otherwise.
  // A checkpoint keeps it.
  std::byte* error();

  double seconds_waited() const;  // in finish, since construction
  std::size_t bucket_count() const;
  std::vector<std::size_t> ends() const;  // in bytes of the arena

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
