// Attention of one position over a cache of keys and values, which is as quick as the cache can be
// read: a head's keys and then its values, in the order in which they lie.
#include <algorithm>
#include <cmath>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/cpu/lanes_f32.h"
#include "core/kernels/cpu/rows.h"
#include "core/kernels/vector_math.h"

namespace peal::cpu {
namespace {

// p (rows) = the softmax of q k^T / sqrt(D); q (D), k (rows, D)
PEAL_CLONES void probabilities(const float* q, const float* k, std::int64_t rows,
                               std::int64_t depth, float* p) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(depth));
  for (std::int64_t u = 0; u < rows; ++u) p[u] = dot_f32(q, k + u * depth, depth) * scale;
  const float largest = max_of(p, rows);
  for (std::int64_t u = 0; u < rows; ++u) p[u] = exp_f32(p[u] - largest);
  const auto factor = static_cast<float>(1.0 / sum_lanes(p, rows));
  for (std::int64_t u = 0; u < rows; ++u) p[u] *= factor;
}

// y (D) = p v, v (rows, D): four rows at a time, added in pairs, then the rest one by one.
PEAL_CLONES void add_values(const float* __restrict p, const float* __restrict v, std::int64_t rows,
                            std::int64_t depth, float* __restrict y) {
  std::fill_n(y, depth, 0.0f);
  std::int64_t u = 0;
  for (; u + 4 <= rows; u += 4) {
    const float *four = p + u, *from = v + u * depth;
    for (std::int64_t d = 0; d < depth; ++d)
      y[d] += (four[0] * from[d] + four[1] * from[depth + d]) +
              (four[2] * from[2 * depth + d] + four[3] * from[3 * depth + d]);
  }
  for (; u < rows; ++u) {
    for (std::int64_t d = 0; d < depth; ++d) y[d] += p[u] * v[u * depth + d];
  }
}

class CachedAttentionStep final : public AttentionStep {
 public:
  explicit CachedAttentionStep(const AttentionStepSpec& spec) : spec_(spec) {}

  std::size_t scratch_bytes() const override {  // p
    return static_cast<std::size_t>(spec_.context) * sizeof(float);
  }

  void run(Stream&, const Tensor& qkv, const Tensor& position, Tensor cache, Tensor y,
           Tensor scratch) override {
    const std::int64_t heads = spec_.heads, c = spec_.width, depth = c / heads;
    const std::int64_t t = *position.as<std::int32_t>(), head_floats = spec_.context * depth;
    auto* p = scratch.as<float>();
    for (std::int64_t i = 0; i < spec_.batch * heads; ++i) {
      const std::int64_t b = i / heads, h = i % heads;
      const float* q = qkv.as<float>() + b * 3 * c + h * depth;
      float* k = cache.as<float>() + (b * 2 * heads + h) * head_floats;
      float* v = k + heads * head_floats;
      std::copy_n(q + c, depth, k + t * depth);
      std::copy_n(q + 2 * c, depth, v + t * depth);
      probabilities(q, k, t + 1, depth, p);
      add_values(p, v, t + 1, depth, y.as<float>() + i * depth);
    }
  }

 private:
  AttentionStepSpec spec_;
};

}  // namespace

std::unique_ptr<AttentionStep> CpuKernels::make_attention_step(const AttentionStepSpec& spec) {
  return std::make_unique<CachedAttentionStep>(spec);
}

}  // namespace peal::cpu
