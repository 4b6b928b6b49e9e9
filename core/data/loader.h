// Prepares batches ahead of the steps that use them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/preprocess.h"
#include "core/data/reading_order.h"

namespace peal {

// The share of one micro-batch: (step, virtual rank, part). Memory belongs to the Loader and stays
// as it is until release().
struct Batch {
  Tensor x;       // (B, record shape...) f32; tokens: (B, T) i32
  Tensor labels;  // (B) i32 class numbers or f32 targets; tokens: (B, T) i32
  Tensor weight;  // (B) f32: 1, or 0 for padding behind the last record of an epoch
  std::span<const std::byte> whole;  // all three, x first
  std::int64_t records = 0;          // of weight 1; padded records are all zeros
};

struct LoaderOptions {
  std::int64_t global_batch = 64;
  int virtual_ranks = 1;       // V
  int accumulate_steps = 1;    // A; B = global_batch / (V * A)
  int first_virtual_rank = 0;  // the block that this rank runs
  int end_virtual_rank = 1;
  std::int64_t first_step = 0;  // where to begin (resume)
  std::int64_t last_step = 0;   // one past the last step; nothing is prepared beyond
  std::uint64_t seed = 1;
  bool shuffle = true;
  std::int64_t window_shards = 0;  // shuffle within windows of so many shards; 0: over all records
  bool integer_labels = true;
  std::int64_t label_end = 0;   // > 0: labels must be whole numbers from 0 to below it
  std::int64_t vocabulary = 0;  // > 0: records are tokens below it (tokens.h), not preprocessed
  bool augment = true;          // random preprocessing
  Device device = kCpu;         // batches are copied there: their memory is pinned for it
  int prefetch_batches = 4;
  int threads = 1;  // 0: acquire() prepares everything
};

// Step s of epoch e takes positions [k*G, (k+1)*G) of the epoch, k = s mod steps_per_epoch; the
// last step of an epoch may be ragged. Virtual rank v, part a takes B consecutive positions
// beginning at k*G + (v*A + a)*B.
//
// With windows of shards the data set is told of each new window while the one before is read, so
// that it can fetch ahead; what a lane waits for records that have not come is in seconds_waited().
class Loader {
 public:
  // Throws Error(input) when the global batch is not a multiple of V * A. The destructor stops the
  // threads; no lane may be inside a call then.
  Loader(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const Preprocess> preprocess,
         const LoaderOptions& options);
  ~Loader();

  // Waits until the batch is prepared (it should be), and prepares it when nobody has begun to.
  // Threads prepare in the order step, part, virtual rank; lanes may ask in any order, each for
  // every item of the block exactly once, and hold one while others go on. Throws what the
  // preparing thread threw.
  const Batch& acquire(std::int64_t step, int virtual_rank, int part);
  void release(const Batch& batch);

  static std::int64_t steps_per_epoch(std::int64_t records, std::int64_t global_batch);
  // Records of weight 1 in the whole global batch of `step`: known without communication.
  static std::int64_t records_in_step(std::int64_t records, std::int64_t global_batch,
                                      std::int64_t step);

  // Taken at construction; nothing is allocated later. One step's batches of the block (of one part
  // when those exceed 256 MiB) and `prefetch_batches` more.
  std::size_t memory_bytes() const;
  std::size_t batch_bytes() const;  // Batch::whole
  double seconds_waited() const;    // by acquire, summed over lanes

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
