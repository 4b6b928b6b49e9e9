// Convolution, relu and 2x2 max-pooling of one record after the other, for first layers.
#include "core/kernels/cpu/conv_relu_pool.h"

#include <algorithm>

#include "core/device/buffer.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"

namespace peal::cpu {
namespace conv_relu_pool {
namespace {

constexpr std::size_t kMostPlaneBytes = std::size_t{512} << 10;  // must stay in the L2 cache

void clear_planes(const Geometry& g, const Scratch& s) {
  std::fill_n(s.planes, g.plane_floats() + 3 * g.line, 0.0f);
}

float sum_of_lanes(const float* lanes) {
  float sums[kLanes];
  std::copy_n(lanes, kLanes, sums);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) sums[i] += sums[half + i];
  }
  return sums[0];
}

void finish_sums(const Geometry& g, const Scratch& s, float* dw, float* db) {
  const std::int64_t weights = g.channels * g.taps();
  const float* sums = s.sums;
  for (std::int64_t o = 0; o < g.filters; ++o) {
    for (std::int64_t i = 0; i < weights; ++i, sums += kLanes) *dw++ = sum_of_lanes(sums);
    if (db != nullptr) db[o] = sum_of_lanes(sums);
    sums += kLanes;
  }
}

class FusedConvReluPool final : public ConvReluPool {
 public:
  FusedConvReluPool(const Geometry& geometry, const Loops& loops, bool training)
      : geometry_(geometry), loops_(loops), training_(training) {}

  std::size_t saved_bytes() const override {
    const std::int64_t vectors = geometry_.records * geometry_.filters * geometry_.vectors;
    return training_ ? static_cast<std::size_t>(vectors) * sizeof(Winners) : 0;
  }
  std::size_t scratch_bytes() const override { return Scratch::bytes(geometry_, training_); }

  void forward(Stream&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y, Tensor saved,
               Tensor scratch) override {
    const Geometry& g = geometry_;
    const Scratch s(g, scratch.as<float>());
    clear_planes(g, s);
    for (std::int64_t n = 0; n < g.records; ++n) {
      loops_.fill_patches(g, s, x.as<float>() + n * g.channels * g.height * g.width);
      Winners* winners = training_ ? saved.as<Winners>() + n * g.filters * g.vectors : nullptr;
      loops_.forward(g, s, w.as<float>(), b.as<float>(),
                     y.as<float>() + n * g.filters * g.positions, winners);
    }
  }

  void backward(Stream&, const Tensor& x, const Tensor&, const Tensor&, const Tensor& dy,
                const Tensor& saved, Tensor, Tensor dw, Tensor db, Tensor scratch) override {
    const Geometry& g = geometry_;
    const Scratch s(g, scratch.as<float>());
    clear_planes(g, s);
    std::fill_n(s.sums, g.sum_floats(), 0.0f);
    for (std::int64_t n = 0; n < g.records; ++n) {
      loops_.fill_patches(g, s, x.as<float>() + n * g.channels * g.height * g.width);
      loops_.backward(g, s, dy.as<float>() + n * g.filters * g.positions,
                      saved.as<Winners>() + n * g.filters * g.vectors);
    }
    finish_sums(g, s, dw.as<float>(), db.as<float>());
  }

 private:
  Geometry geometry_;
  Loops loops_;
  bool training_;
};

bool both(const std::int64_t (&values)[2], std::int64_t wanted) {
  return values[0] == wanted && values[1] == wanted;
}

bool supported(const Conv2dSpec& conv, const Pool2dSpec& pool) {
  const bool plain_conv = both(conv.stride, 1) && both(conv.dilation, 1) && conv.groups == 1 &&
                          conv.w[2] == conv.w[3] && conv.x_layout == nullptr;
  const bool plain_pool = pool.kind == PoolKind::max && both(pool.kernel, 2) &&
                          both(pool.stride, 2) && both(pool.padding, 0);
  return plain_conv && plain_pool && conv.activation == Activation::relu && !conv.needs_dx &&
         pool.y().numel() > 0 && (conv.w[2] == 3 || conv.w[2] == 5);
}

}  // namespace

std::unique_ptr<ConvReluPool> make(const Conv2dSpec& conv, const Pool2dSpec& pool, LoopsOf loops) {
  if (!supported(conv, pool)) return nullptr;
  const Geometry geometry(conv, pool);
  if (geometry.plane_floats() * sizeof(float) > kMostPlaneBytes) return nullptr;
  return std::make_unique<FusedConvReluPool>(geometry, loops(geometry.kernel), conv.training);
}

}  // namespace conv_relu_pool

std::unique_ptr<ConvReluPool> CpuKernels::make_conv_relu_pool(const Conv2dSpec& conv,
                                                              const Pool2dSpec& pool) {
  if (!has_avx2()) return nullptr;
  return conv_relu_pool::make(
      conv, pool,
      conv_relu_pool::has_avx512() ? conv_relu_pool::avx512_loops : conv_relu_pool::avx2_loops);
}

}  // namespace peal::cpu
