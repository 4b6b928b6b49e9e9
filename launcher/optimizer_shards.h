// parallel.shard_optimizer: each rank has the optimizer's state of its slices of the arenas only,
// steps those, and gives their parameters to all others (Rajbhandari et al. 2020, "ZeRO", section
// 5.1, P_os).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "comm/bucket_shards.h"
#include "comm/communicator.h"
#include "core/device/stream.h"
#include "core/graph/plan.h"
#include "core/state/checkpoint.h"
#include "launcher/mirror.h"

namespace peal {

// Slices are of every bucket, so that its reduce-scatter and the all-gather of its parameters keep
// all ranks busy while other buckets are on their way, and whole blocks of the gradient norm, so
// that its sums are those of a rank that has all.
class OptimizerShards {
 public:
  // `comm` moves gradients and parameters on `device`, `host` all else. All outlive it. Collective
  // calls are marked.
  OptimizerShards(const BucketShards& shards, Communicator& comm, Communicator& host,
                  const ParameterTable& table, const Device& device);

  std::size_t state_bytes() const { return shards_.bytes(host_.rank()); }  // of each state
  std::size_t bytes() const { return bounce_.size(); }                     // of memory held here
  const BucketShards& shards() const { return shards_; }
  std::size_t buckets() const { return shards_.buckets(); }
  ByteRange slice(std::size_t bucket) const { return shards_.slice(bucket, host_.rank()); }
  std::size_t place(std::size_t bucket) const { return shards_.place(bucket, host_.rank()); }

  // Starts to give this rank's slice of a bucket's parameters to all ranks. Collective.
  void share(Stream& s, std::size_t bucket, std::byte* parameters);
  void finish_sharing(Stream& s);  // `s` waits for all that was started

  // The sums of squares of all ranks' blocks of the gradient (Kernels::sum_squares): `sums` (N) f64
  // becomes those of one rank after those of another, and block i of the arena has
  // sums[block_order()[i]]. Collective.
  void sum_squares(Stream& s, std::byte* gradients, const Tensor& sums);
  const std::vector<std::int64_t>& block_order() const { return block_order_; }

  // Brings the sums that ranks have to rank 0, which then has all in `gradients`. Collective.
  void collect_gradients(Stream& s, std::byte* gradients);
  // The states of all ranks, as they are on the hosts, into `room` on rank 0: of each state one
  // tensor a parameter, in the table's order; room may be empty. Collective.
  void collect(Stream& host, const std::vector<Mirror>& states,
               const std::vector<NamedTensor>& room);
  // Gives out such tensors, which rank 0 has in the same order. Collective.
  void give(Stream& host, const std::vector<NamedTensor>& saved, std::vector<Mirror>& states);

 private:
  Tensor floats(std::byte* arena, ByteRange range, const Device& device) const;
  template <typename Visit>
  void visit_parameters(ByteRange range, const Visit& visit) const;
  std::size_t index(std::size_t state, std::size_t parameter) const {
    return state * table_.parameters.size() + parameter;
  }

  const BucketShards& shards_;
  Communicator &comm_, &host_;
  const ParameterTable& table_;
  Device device_;
  std::vector<std::string> names_;  // of all-gathers, by bucket
  std::vector<Request> requests_;
  std::size_t shared_ = 0;  // buckets, in this step
  // The norm's blocks: those of a rank stand together; where that of rank r begin, how many they
  // are, and where the blocks stand in the order of the arena.
  std::vector<std::int64_t> block_counts_;
  std::vector<std::int64_t> block_order_;
  std::size_t first_block_ = 0;
  Buffer bounce_;  // a bucket of one state, on rank 0
};

}  // namespace peal
