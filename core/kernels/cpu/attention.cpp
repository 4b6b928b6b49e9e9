// Attention by blocks of queries (Dao et al. 2022): the scores of a block, at most kQueries x T,
// are all that is ever stored of p, and backward computes them again. Products are oneDNN's. Of
// tensors stored as bf16 a head is widened into scratch memory before and rounded after.
//
// Cost of a head, in multiplications and additions: forward 2 T (T + kQueries) D, backward 5/2 of
// that, where without blocks and without causality it would be 4 T^2 D and 10 T^2 D.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/clones.h"
#include "core/base/half_arrays.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/cpu/onednn.h"
#include "core/kernels/cpu/rows.h"
#include "core/kernels/vector_math.h"

namespace peal::cpu {
namespace {

constexpr std::int64_t kQueries = 64;  // of a block: its scores stay in the L2 cache

// Rows of scores (rows, keys), of which row r sees keys 0..first + r: each becomes exp(x - max), 0
// for what it does not see; factors[r] = 1 / sum, log_sums[r] = max + log(sum).
PEAL_CLONES void exponentials(float* scores, std::int64_t rows, std::int64_t keys,
                              std::int64_t first, float* factors, float* log_sums) {
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * keys;
    const std::int64_t seen = first + r + 1;
    const float largest = max_of(row, seen);
    for (std::int64_t u = 0; u < seen; ++u) row[u] = exp_f32(row[u] - largest);
    for (std::int64_t u = seen; u < keys; ++u) row[u] = 0.0f;
    const double sum = sum_lanes(row, seen);
    factors[r] = static_cast<float>(1.0 / sum);
    log_sums[r] = static_cast<float>(largest + std::log(sum));
  }
}

PEAL_CLONES void scale_rows(const float* factors, std::int64_t rows, std::int64_t columns, float* y,
                            std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) y[r * stride + c] *= factors[r];
  }
}

// Scores become p, once more.
PEAL_CLONES void probabilities(float* scores, std::int64_t rows, std::int64_t keys,
                               std::int64_t first, const float* log_sums) {
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * keys;
    const float log_sum = log_sums[r];
    const std::int64_t seen = first + r + 1;
    for (std::int64_t u = 0; u < seen; ++u) row[u] = exp_f32(row[u] - log_sum);
    for (std::int64_t u = seen; u < keys; ++u) row[u] = 0.0f;
  }
}

// dp becomes the gradient of the scores, p * (dp - dy . y).
PEAL_CLONES void softmax_gradient(const float* __restrict p, float* __restrict dp,
                                  std::int64_t rows, std::int64_t keys, const float* __restrict y,
                                  const float* __restrict dy, std::int64_t columns,
                                  std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    Lanes dot;
    for_lanes(y + r * stride, dy + r * stride, columns,
              [&](const Lanes& a, const Lanes& b) { add_products(a, b, dot); });
    const auto mean = static_cast<float>(dot.total());
    for (std::int64_t u = 0; u < keys; ++u)
      dp[r * keys + u] = p[r * keys + u] * (dp[r * keys + u] - mean);
  }
}

class BlockAttention final : public Attention {
 public:
  // oneDNN compiles its kernels when they are first used: that is done here, on one head of zeros.
  explicit BlockAttention(const AttentionSpec& spec)
      : spec_(spec),
        depth_(spec.width / spec.heads),
        widens_(spec.stored != DType::f32),
        row_(widens_ ? depth_ : spec.width),
        scale_(1.0f / std::sqrt(static_cast<float>(depth_))) {
    const auto floats = [](std::int64_t n) {
      return std::vector<float>(static_cast<std::size_t>(n));
    };
    const std::int64_t c = row_;
    std::vector<float> qkv = floats(spec.time * 3 * c), y = floats(spec.time * c), dy = y,
                       dqkv = qkv, log_sums = floats(spec.time), scratch = floats(block_floats());
    with_onednn("make_attention", [&] {
      head_forward({qkv.data(), y.data(), log_sums.data()}, scratch.data());
      if (spec.training)
        head_backward({qkv.data(), y.data(), log_sums.data(), dy.data(), dqkv.data()},
                      scratch.data());
    });
  }

  std::size_t scratch_bytes() const override {
    const std::int64_t head = widens_ ? spec_.time * depth_ * (spec_.training ? 8 : 4) : 0;
    return static_cast<std::size_t>(block_floats() + head) * sizeof(float);
  }

  void forward(Stream&, const Tensor& qkv, Tensor y, Tensor log_sums, Tensor scratch) override {
    with_onednn("attention", [&] {
      for_heads([&](std::int64_t in, std::int64_t out, std::int64_t rows) {
        float *pad = scratch.as<float>(), *sums = log_sums.as<float>() + rows;
        if (!widens_) {
          return head_forward({qkv.as<float>() + in, y.as<float>() + out, sums}, pad);
        }
        const Head head = widened(pad, sums);
        widen(qkv, in, 3, head.qkv);
        head_forward(head, pad);
        round(head.y, 1, y, out);
      });
    });
  }

  void backward(Stream&, const Tensor& qkv, const Tensor& y, const Tensor& log_sums,
                const Tensor& dy, Tensor dqkv, Tensor scratch) override {
    with_onednn("attention backward", [&] {
      for_heads([&](std::int64_t in, std::int64_t out, std::int64_t rows) {
        float *pad = scratch.as<float>(), *sums = log_sums.as<float>() + rows;
        if (!widens_) {
          return head_backward({qkv.as<float>() + in, y.as<float>() + out, sums,
                                dy.as<float>() + out, dqkv.as<float>() + in},
                               pad);
        }
        const Head head = widened(pad, sums);
        widen(qkv, in, 3, head.qkv);
        widen(y, out, 1, head.y);
        widen(dy, out, 1, head.dy);
        head_backward(head, pad);
        round(head.dqkv, 3, dqkv, in);
      });
    });
  }

 private:
  // Where a head's part of the tensors begins; rows are 3*row_ (qkv, dqkv) or row_ (y, dy) apart.
  struct Head {
    float *qkv, *y, *log_sums, *dy = nullptr, *dqkv = nullptr;
  };

  template <class F>
  void for_heads(F f) const {
    const std::int64_t c = spec_.width, t = spec_.time;
    for (std::int64_t b = 0; b < spec_.batch; ++b) {
      for (std::int64_t h = 0; h < spec_.heads; ++h) {
        f(b * t * 3 * c + h * depth_, b * t * c + h * depth_, (b * spec_.heads + h) * t);
      }
    }
  }

  // Behind what a block needs: (T, 3*D) and (T, D), for backward twice.
  Head widened(float* scratch, float* log_sums) const {
    float* qkv = scratch + block_floats();
    const std::int64_t values = spec_.time * depth_;
    return {qkv, qkv + 3 * values, log_sums, qkv + 4 * values, qkv + 5 * values};
  }

  // A head's columns, from `at` on, of rows that are `parts` times C long: those of each part.
  void widen(const Tensor& x, std::int64_t at, std::int64_t parts, float* to) const {
    const auto* from = x.as<std::uint16_t>() + at;
    for (std::int64_t i = 0; i < spec_.time * parts; ++i) {
      widen_bf16(from + i * spec_.width, to + i * depth_, static_cast<std::size_t>(depth_));
    }
  }

  void round(const float* from, std::int64_t parts, const Tensor& y, std::int64_t at) const {
    auto* to = y.as<std::uint16_t>() + at;
    for (std::int64_t i = 0; i < spec_.time * parts; ++i) {
      narrow_bf16(from + i * depth_, to + i * spec_.width, static_cast<std::size_t>(depth_));
    }
  }

  std::int64_t block_rows() const { return std::min(kQueries, spec_.time); }
  // scores, dp and the factors of a block's rows
  std::int64_t block_floats() const {
    return block_rows() * spec_.time * (spec_.training ? 2 : 1) + kQueries;
  }

  // scores (rows, keys) = q k^T / sqrt(D)
  void scores(const Head& head, std::int64_t first, std::int64_t rows, float* to) const {
    const std::int64_t c = row_, keys = first + rows;
    multiply(rows, keys, depth_, scale_, {head.qkv + first * 3 * c, 3 * c},
             {head.qkv + c, 3 * c, /*transposed=*/true}, 0.0f, {to, keys});
  }

  void head_forward(const Head& head, float* scratch) const {
    const std::int64_t c = row_;
    float *factors = scratch, *p = scratch + kQueries;
    for (std::int64_t first = 0; first < spec_.time; first += kQueries) {
      const std::int64_t rows = std::min(kQueries, spec_.time - first), keys = first + rows;
      scores(head, first, rows, p);
      exponentials(p, rows, keys, first, factors, head.log_sums + first);
      float* y = head.y + first * c;
      multiply(rows, depth_, keys, 1.0f, {p, keys}, {head.qkv + 2 * c, 3 * c}, 0.0f, {y, c});
      scale_rows(factors, rows, depth_, y, c);
    }
  }

  // From the last block, which sees all keys and so writes all of dk and dv, to the first.
  void head_backward(const Head& head, float* scratch) const {
    const std::int64_t c = row_, stride = 3 * c;
    float *p = scratch, *dp = scratch + block_rows() * spec_.time;
    const std::int64_t last = (spec_.time - 1) / kQueries * kQueries;
    for (std::int64_t first = last; first >= 0; first -= kQueries) {
      const std::int64_t rows = std::min(kQueries, spec_.time - first), keys = first + rows;
      const float beta = first == last ? 0.0f : 1.0f;
      float *q = head.qkv + first * stride, *k = head.qkv + c, *v = head.qkv + 2 * c;
      float *y = head.y + first * c, *dy = head.dy + first * c;
      scores(head, first, rows, p);
      probabilities(p, rows, keys, first, head.log_sums + first);
      multiply(keys, depth_, rows, 1.0f, {p, keys, true}, {dy, c}, beta,
               {head.dqkv + 2 * c, stride});
      multiply(rows, keys, depth_, 1.0f, {dy, c}, {v, stride, true}, 0.0f, {dp, keys});
      softmax_gradient(p, dp, rows, keys, y, dy, depth_, c);
      multiply(rows, depth_, keys, scale_, {dp, keys}, {k, stride}, 0.0f,
               {head.dqkv + first * stride, stride});
      multiply(keys, depth_, rows, scale_, {dp, keys, true}, {q, stride}, beta,
               {head.dqkv + c, stride});
    }
  }

  AttentionSpec spec_;
  std::int64_t depth_;
  bool widens_;
  std::int64_t row_;
  float scale_;
};

}  // namespace

std::unique_ptr<Attention> CpuKernels::make_attention(const AttentionSpec& spec) {
  return std::make_unique<BlockAttention>(spec);
}

}  // namespace peal::cpu
