#include "launcher/optimizer_shards.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "core/base/error.h"
#include "core/kernels/kernels.h"
#include "core/optim/optimizer.h"

namespace peal {
namespace {

std::size_t at(int rank) {
  return static_cast<std::size_t>(rank);
}

std::int64_t blocks_of(ByteRange slice) {
  return norm_blocks(static_cast<std::int64_t>(slice.size() / sizeof(float)));
}

Tensor doubles(std::byte* data, std::size_t first, std::int64_t count, const Device& device) {
  return {.data = data + first * sizeof(double),
          .shape = {count},
          .dtype = DType::f64,
          .device = device};
}

}  // namespace

OptimizerShards::OptimizerShards(const BucketShards& shards, Communicator& comm, Communicator& host,
                                 const ParameterTable& table, const Device& device)
    : shards_(shards),
      comm_(comm),
      host_(host),
      table_(table),
      device_(device),
      requests_(shards.buckets()),
      block_counts_(at(shards.ranks()), 0) {
  for (std::size_t b = 0; b < buckets(); ++b) {
    names_.push_back(cat("parameters ", b));
    for (int r = 0; r < shards.ranks(); ++r) {
      block_counts_[at(r)] += blocks_of(shards.slice(b, r));
    }
  }
  std::vector<std::size_t> next;  // block of each rank
  std::size_t first = 0;
  for (int r = 0; r < shards.ranks(); ++r) {
    if (r == host.rank()) first_block_ = first;
    next.push_back(first);
    first += static_cast<std::size_t>(block_counts_[at(r)]);
  }
  for (std::size_t b = 0; b < buckets(); ++b) {
    for (int r = 0; r < shards.ranks(); ++r) {
      const std::int64_t blocks = blocks_of(shards.slice(b, r));
      for (std::int64_t i = 0; i < blocks; ++i)
        block_order_.push_back(static_cast<std::int64_t>(next[at(r)]++));
    }
  }
  if (host.rank() == 0) bounce_ = Buffer(shards.largest_bucket());
}

Tensor OptimizerShards::floats(std::byte* arena, ByteRange range, const Device& device) const {
  return {.data = arena + range.begin,
          .shape = {static_cast<std::int64_t>(range.size() / sizeof(float))},
          .device = device};
}

void OptimizerShards::share(Stream& s, std::size_t bucket, std::byte* parameters) {
  const Counts counts = shards_.counts(bucket);
  // NCCL has a call for blocks of one size.
  const bool even =
      std::adjacent_find(counts.begin(), counts.end(), std::not_equal_to<>()) == counts.end();
  requests_[shared_++] = comm_.all_gather(
      s, names_[bucket], floats(parameters, slice(bucket), device_),
      floats(parameters, shards_.bucket(bucket), device_), even ? Counts() : counts);
}

void OptimizerShards::finish_sharing(Stream& s) {
  for (std::size_t i = 0; i < shared_; ++i) comm_.wait(s, requests_[i]);
  shared_ = 0;
}

void OptimizerShards::sum_squares(Stream& s, std::byte* gradients, const Tensor& sums) {
  auto* const all = sums.as<std::byte>();
  std::size_t block = first_block_;
  for (std::size_t b = 0; b < buckets(); ++b) {
    const std::int64_t blocks = blocks_of(slice(b));
    if (blocks == 0) continue;
    kernels(device_).sum_squares(s, floats(gradients, slice(b), device_),
                                 doubles(all, block, blocks, device_));
    block += static_cast<std::size_t>(blocks);
  }
  const Tensor mine = doubles(all, first_block_, block_counts_[at(host_.rank())], device_);
  comm_.wait(s, comm_.all_gather(s, "gradient norm", mine, sums, block_counts_));
}

void OptimizerShards::collect_gradients(Stream& s, std::byte* gradients) {
  for (std::size_t b = 0; b < buckets(); ++b) {
    const bool root = comm_.rank() == 0;
    const Tensor all = root ? floats(gradients, shards_.bucket(b), device_) : Tensor();
    comm_.wait(s, comm_.gather(s, "gradients", floats(gradients, slice(b), device_), all,
                               /*root=*/0, shards_.counts(b)));
  }
}

// visit(parameter, its bytes [begin, end) that are in `range`, where those lie in the range)
template <typename Visit>
void OptimizerShards::visit_parameters(ByteRange range, const Visit& visit) const {
  for (std::size_t i = 0; i < table_.parameters.size(); ++i) {
    const ArenaEntry& entry = table_.parameters[i];
    const std::size_t bytes = static_cast<std::size_t>(entry.shape.numel()) * sizeof(float);
    const std::size_t begin = std::max(range.begin, entry.offset),
                      end = std::min(range.end, entry.offset + bytes);
    if (begin >= end) continue;
    visit(i, ByteRange{begin - entry.offset, end - entry.offset}, begin - range.begin);
  }
}

void OptimizerShards::collect(Stream& host, const std::vector<Mirror>& states,
                              const std::vector<NamedTensor>& room) {
  for (std::size_t state = 0; state < states.size(); ++state) {
    for (std::size_t b = 0; b < buckets(); ++b) {
      const ByteRange range = shards_.bucket(b);
      const Tensor mine = floats(states[state].host(), {place(b), place(b + 1)}, kCpu);
      const Tensor all =
          host_.rank() == 0 ? floats(bounce_.data(), {0, range.size()}, kCpu) : Tensor();
      host_.wait(host,
                 host_.gather(host, "optimizer state", mine, all, /*root=*/0, shards_.counts(b)));
      if (room.empty()) continue;
      visit_parameters(range, [&](std::size_t parameter, ByteRange part, std::size_t from) {
        std::memcpy(room[index(state, parameter)].tensor.as<std::byte>() + part.begin,
                    bounce_.data() + from, part.size());
      });
    }
  }
}

void OptimizerShards::give(Stream& host, const std::vector<NamedTensor>& saved,
                           std::vector<Mirror>& states) {
  for (std::size_t state = 0; state < states.size(); ++state) {
    for (std::size_t b = 0; b < buckets(); ++b) {
      const ByteRange range = shards_.bucket(b);
      Tensor all;
      if (host_.rank() == 0) {
        // Between parameters there are gaps, which are zero.
        std::memset(bounce_.data(), 0, range.size());
        visit_parameters(range, [&](std::size_t parameter, ByteRange part, std::size_t to) {
          std::memcpy(bounce_.data() + to,
                      saved[index(state, parameter)].tensor.as<const std::byte>() + part.begin,
                      part.size());
        });
        all = floats(bounce_.data(), {0, range.size()}, kCpu);
      }
      const Tensor mine = floats(states[state].host(), {place(b), place(b + 1)}, kCpu);
      host_.wait(host,
                 host_.scatter(host, "optimizer state", all, mine, /*root=*/0, shards_.counts(b)));
    }
  }
}

}  // namespace peal
