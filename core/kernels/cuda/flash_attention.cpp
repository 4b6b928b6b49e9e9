#include "core/kernels/cuda/flash_attention.h"

#include <algorithm>
#include <array>

#include "core/kernels/cuda/cudnn.h"

namespace peal::cuda {
namespace {

// q, k and v, which lie side by side.
std::array<Tensor, 3> parts_of(const Tensor& qkv, std::int64_t width) {
  std::array<Tensor, 3> parts = {qkv, qkv, qkv};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    parts[i].data = qkv.as<std::byte>() + i * static_cast<std::size_t>(width) * size_of(qkv.dtype);
  }
  return parts;
}

class FlashAttention final : public Attention {
 public:
  FlashAttention(const AttentionSpec& spec, CudnnPlan* forward, CudnnPlan* backward)
      : width_(spec.width), forward_(forward), backward_(backward) {}

  std::size_t scratch_bytes() const override {
    return std::max(forward_->scratch_bytes(),
                    backward_ == nullptr ? 0 : backward_->scratch_bytes());
  }

  void forward(Stream& s, const Tensor& qkv, Tensor y, Tensor log_sums, Tensor scratch) override {
    const auto [q, k, v] = parts_of(qkv, width_);
    forward_->run(s, {&q, &k, &v, &y, &log_sums}, scratch);
  }

  void backward(Stream& s, const Tensor& qkv, const Tensor& y, const Tensor& log_sums,
                const Tensor& dy, Tensor dqkv, Tensor scratch) override {
    const auto [q, k, v] = parts_of(qkv, width_);
    const auto [dq, dk, dv] = parts_of(dqkv, width_);
    backward_->run(s, {&q, &k, &v, &y, &dy, &log_sums, &dq, &dk, &dv}, scratch);
  }

 private:
  std::int64_t width_;
  CudnnPlan* forward_;
  CudnnPlan* backward_;  // nullptr unless training
};

}  // namespace

std::unique_ptr<Attention> make_flash_attention(const Device& device, const AttentionSpec& spec) {
  const std::int64_t depth = spec.width / spec.heads;
  if (spec.stored == DType::f32 || depth % 8 != 0 || depth > 128) return nullptr;
  if (spec.batch * spec.time == 0) return nullptr;
  std::string why;
  CudnnPlan* const forward = find_attention_plan(device, spec, /*backward=*/false, why);
  if (forward == nullptr) return nullptr;
  CudnnPlan* backward = nullptr;
  if (spec.training) {
    backward = find_attention_plan(device, spec, /*backward=*/true, why);
    if (backward == nullptr) return nullptr;
  }
  return std::make_unique<FlashAttention>(spec, forward, backward);
}

}  // namespace peal::cuda
