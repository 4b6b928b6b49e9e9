// Attention of one position over a cache of keys and values, which is as quick as the cache can be
// read: its rows are walked through in order, once for all heads' keys and once for their values.
#include <algorithm>
#include <cmath>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/cpu/rows.h"
#include "core/kernels/vector_math.h"

namespace peal::cpu {
namespace {

struct Heads {
  std::int64_t heads, depth;  // H, D
  std::int64_t width() const { return heads * depth; }
};

// p (H, rows) = q k^T / sqrt(D); the rows of k are 2*C apart.
PEAL_CLONES void scores(const Heads& of, const float* q, const float* k, std::int64_t rows,
                        float* p) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(of.depth));
  for (std::int64_t u = 0; u < rows; ++u) {
    const float* row = k + u * 2 * of.width();
    for (std::int64_t h = 0; h < of.heads; ++h) {
      Lanes dot;
      for_lanes(q + h * of.depth, row + h * of.depth, of.depth,
                [&](const Lanes& a, const Lanes& b) { add_products(a, b, dot); });
      p[h * rows + u] = static_cast<float>(dot.total() * scale);
    }
  }
}

// Each row of p (H, rows) becomes its softmax.
PEAL_CLONES void probabilities(const Heads& of, std::int64_t rows, float* p) {
  for (std::int64_t h = 0; h < of.heads; ++h) {
    float* row = p + h * rows;
    const float largest = max_of(row, rows);
    for (std::int64_t u = 0; u < rows; ++u) row[u] = exp_f32(row[u] - largest);
    const auto factor = static_cast<float>(1.0 / sum_lanes(row, rows));
    for (std::int64_t u = 0; u < rows; ++u) row[u] *= factor;
  }
}

// y = p v: four rows of v at a time, added in pairs, then the rest one by one.
PEAL_CLONES void add_values(const Heads& of, const float* __restrict p, const float* __restrict v,
                            std::int64_t rows, float* __restrict y) {
  const std::int64_t depth = of.depth, stride = 2 * of.width();
  std::fill_n(y, of.width(), 0.0f);
  std::int64_t u = 0;
  for (; u + 4 <= rows; u += 4) {
    for (std::int64_t h = 0; h < of.heads; ++h) {
      const float *four = p + h * rows + u, *from = v + u * stride + h * depth;
      float* to = y + h * depth;
      for (std::int64_t d = 0; d < depth; ++d)
        to[d] += (four[0] * from[d] + four[1] * from[stride + d]) +
                 (four[2] * from[2 * stride + d] + four[3] * from[3 * stride + d]);
    }
  }
  for (; u < rows; ++u) {
    for (std::int64_t h = 0; h < of.heads; ++h) {
      const float one = p[h * rows + u], *from = v + u * stride + h * depth;
      for (std::int64_t d = 0; d < depth; ++d) y[h * depth + d] += one * from[d];
    }
  }
}

class CachedAttentionStep final : public AttentionStep {
 public:
  explicit CachedAttentionStep(const AttentionStepSpec& spec) : spec_(spec) {}

  std::size_t scratch_bytes() const override {  // p
    return static_cast<std::size_t>(spec_.heads * spec_.context) * sizeof(float);
  }

  void run(Stream&, const Tensor& qkv, const Tensor& position, Tensor cache, Tensor y,
           Tensor scratch) override {
    const Heads of{spec_.heads, spec_.width / spec_.heads};
    const std::int64_t c = spec_.width, t = *position.as<std::int32_t>();
    auto* p = scratch.as<float>();
    for (std::int64_t b = 0; b < spec_.batch; ++b) {
      const float* q = qkv.as<float>() + b * 3 * c;
      float* k = cache.as<float>() + b * spec_.context * 2 * c;
      std::copy_n(q + c, 2 * c, k + t * 2 * c);
      scores(of, q, k, t + 1, p);
      probabilities(of, t + 1, p);
      add_values(of, p, k + c, t + 1, y.as<float>() + b * c);
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
