#include "core/graph/replay.h"

#include <algorithm>
#include <bit>

#include "core/graph/plan.h"
#include "core/kernels/kernels.h"

namespace peal {

std::vector<CallSegment> cut_calls(std::span<const std::size_t> bytes_final,
                                   std::span<const std::size_t> bounds) {
  std::vector<CallSegment> segments;
  const std::size_t calls = bytes_final.size();
  std::size_t all = 0;
  for (const std::size_t bytes : bytes_final) all = std::max(all, bytes);
  std::size_t begin = 0;
  auto bound = bounds.begin();
  for (std::size_t i = 0; i < calls; ++i) {
    const std::size_t bytes = bytes_final[i];
    const auto next = std::find_if(bound, bounds.end(), [&](std::size_t b) { return b > bytes; });
    if (bytes == 0 || (next == bound && bytes < all)) continue;
    segments.push_back({begin, i + 1, bytes});
    begin = i + 1;
    bound = next;
  }
  if (begin < calls) segments.push_back({begin, calls, 0});
  return segments;
}

std::vector<Recording>& RecordingsByAddress::at(std::span<const void* const> addresses) {
  ++uses_;
  for (Kept& kept : kept_) {
    if (!std::equal(addresses.begin(), addresses.end(), kept.addresses.begin(),
                    kept.addresses.end()))
      continue;
    kept.used = uses_;
    return kept.recordings;
  }
  if (kept_.size() >= most_) {
    kept_.erase(std::min_element(kept_.begin(), kept_.end(),
                                 [](const Kept& a, const Kept& b) { return a.used < b.used; }));
  }
  kept_.push_back({{addresses.begin(), addresses.end()}, {}, uses_});
  return kept_.back().recordings;
}

PassMemory::PassMemory(const Device& device)
    : memory_(3 * kAlignment, device),
      draws_{memory_.data(), {2}, DType::i64, device},
      set_{memory_.data() + kAlignment, {1}, DType::f32, device},
      loss_scale_{memory_.data() + 2 * kAlignment, {1}, DType::f32, device} {}

void PassMemory::set_key(Stream& s, const PassKey& key) {
  const DrawKey draws = RandomKey{key.seed, key.step, key.virtual_rank}.draws();
  const std::int64_t values[] = {static_cast<std::int64_t>(draws.seed),
                                 static_cast<std::int64_t>(draws.turn)};
  if (std::equal(values, values + 2, draws_there_)) return;
  kernels(s.device()).set_values(s, values, draws_);
  std::copy(values, values + 2, draws_there_);
}

// The low half of a number of 64 bits, as every device has them.
void PassMemory::set_loss_scale(Stream& s, float scale) {
  static_assert(std::endian::native == std::endian::little);
  const auto bits = static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(scale));
  Tensor to = factor_.empty() ? loss_scale_ : set_;
  to.dtype = DType::i64;
  Kernels& k = kernels(s.device());
  if (bits != set_there_) k.set_values(s, {&bits, 1}, to);
  set_there_ = bits;
  if (!factor_.empty()) k.binary(s, BinaryOp::mul, set_, factor_, loss_scale_);
}

}  // namespace peal
