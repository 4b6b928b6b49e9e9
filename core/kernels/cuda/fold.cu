#include "core/kernels/cuda/fold.h"
#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

constexpr int kPack = 8;  // halves of 16 bytes
constexpr std::int64_t kMostChannels = 4;

struct Pictures {
  std::int64_t channels, height, width;
  bool last;
  __device__ std::int64_t at(std::int64_t b, std::int64_t c, std::int64_t h, std::int64_t w) const {
    return last ? ((b * height + h) * width + w) * channels + c
                : ((b * channels + c) * height + h) * width + w;
  }
};

struct PictureFold {
  Pictures x;
  std::int64_t padding[2];
  Divider columns, rows;  // of x'
  int channels;           // of x'
  std::int64_t pixels;    // of x', of all records
};

// A thread a pixel of x'.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    fold_pictures_kernel(const T* from, PictureFold of, T* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= of.pixels) return;
  const std::int64_t row = of.columns.divide(i), b = of.rows.divide(row);
  const std::int64_t w = 2 * (i - row * of.columns.value()) - of.padding[1];
  const std::int64_t h = 2 * (row - b * of.rows.value()) - of.padding[0];
  const int channels = static_cast<int>(of.x.channels);
  int square = 0, c = 0;
  for (int first = 0; first < of.channels; first += kPack) {
    Pack<kPack> pack;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const std::int64_t y = h + square / 2, x = w + square % 2;
      const bool there = square < 4 && y >= 0 && y < of.x.height && x >= 0 && x < of.x.width;
      pack.of[e] = there ? widen(from[of.x.at(b, c, y, x)]) : 0.0f;
      if (++c == channels) {
        c = 0;
        ++square;
      }
    }
    store_pack<kPack>(to + i * of.channels + first, pack);
  }
}

struct WeightFold {
  std::int64_t channels, height, width;  // of w
  std::int64_t folded_channels, folded_height, folded_width;

  // Of w'.
  __device__ std::int64_t at(std::int64_t o, std::int64_t c, std::int64_t h, std::int64_t w) const {
    const std::int64_t side = ((h % 2) * 2 + w % 2) * channels + c;
    return ((o * folded_height + h / 2) * folded_width + w / 2) * folded_channels + side;
  }
};

// A thread an element of w'.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    fold_weights_kernel(const T* from, WeightFold of, std::int64_t n, T* to) {
  std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  T* const at = to + i;
  const std::int64_t side = i % of.folded_channels, square = side / of.channels;
  i /= of.folded_channels;
  const std::int64_t w = i % of.folded_width * 2 + square % 2;
  i /= of.folded_width;
  const std::int64_t h = i % of.folded_height * 2 + square / 2, o = i / of.folded_height;
  const std::int64_t c = side % of.channels;
  const bool there = square < 4 && h < of.height && w < of.width;
  *at = there ? from[((o * of.channels + c) * of.height + h) * of.width + w] : rounded<T>(0.0f);
}

// A thread an element of w.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    unfold_weights_kernel(const T* from, WeightFold of, std::int64_t n, float* to) {
  std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  float* const at = to + i;
  const std::int64_t w = i % of.width;
  i /= of.width;
  const std::int64_t h = i % of.height;
  i /= of.height;
  *at = widen(from[of.at(i / of.channels, i % of.channels, h, w)]);
}

class FoldPictures final : public Reorder {
 public:
  FoldPictures(const Conv2dSpec& spec, bool from_last) {
    const Shape to = folded(spec).x;
    of_ = {.x = {spec.x[1], spec.x[2], spec.x[3], from_last},
           .padding = {spec.padding[0], spec.padding[1]},
           .columns = Divider(to[3]),
           .rows = Divider(to[2]),
           .channels = static_cast<int>(to[1]),
           .pixels = to[0] * to[2] * to[3]};
  }
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Tensor& from, Tensor to, Tensor) override {
    if (of_.pixels == 0) return;
    const OnStream on(s);
    for_stored(from.dtype, [&]<typename T>(Stored<T>) {
      fold_pictures_kernel<<<blocks_for(of_.pixels, kThreads), kThreads, 0, on.stream>>>(
          from.as<T>(), of_, to.as<T>());
    });
    check_launch("fold");
  }

 private:
  PictureFold of_;
};

class FoldWeights final : public Reorder {
 public:
  FoldWeights(const Conv2dSpec& spec, bool back) : back_(back) {
    const Shape to = folded(spec).w;
    of_ = {spec.w[1], spec.w[2], spec.w[3], to[1], to[2], to[3]};
    count_ = (back ? spec.w : to).numel();
  }
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Tensor& from, Tensor to, Tensor) override {
    if (count_ == 0) return;
    const OnStream on(s);
    const unsigned blocks = blocks_for(count_, kThreads);
    for_stored(from.dtype, [&]<typename T>(Stored<T>) {
      if (back_) {
        unfold_weights_kernel<<<blocks, kThreads, 0, on.stream>>>(from.as<T>(), of_, count_,
                                                                  to.as<float>());
      } else {
        fold_weights_kernel<<<blocks, kThreads, 0, on.stream>>>(from.as<T>(), of_, count_,
                                                                to.as<T>());
      }
    });
    check_launch("fold");
  }

 private:
  bool back_;
  WeightFold of_;
  std::int64_t count_;
};

}  // namespace

bool can_fold(const Conv2dSpec& spec) {
  const bool no_dx = !spec.training || !spec.needs_dx;
  return no_dx && spec.groups == 1 && spec.x[1] <= kMostChannels && spec.stride[0] == 2 &&
         spec.stride[1] == 2 && spec.dilation[0] == 1 && spec.dilation[1] == 1 && spec.w[2] > 1 &&
         spec.w[3] > 1;
}

Conv2dSpec folded(const Conv2dSpec& spec) {
  Conv2dSpec inner = spec;
  const Shape y = spec.y();
  inner.x[1] = inner.w[1] = ceil_div(4 * spec.x[1], kPack) * kPack;
  for (std::size_t axis : {std::size_t{2}, std::size_t{3}}) {
    inner.w[axis] = ceil_div(spec.w[axis], 2);
    inner.x[axis] = y[axis] + inner.w[axis] - 1;
  }
  for (int axis = 0; axis < 2; ++axis) {
    inner.stride[axis] = 1;
    inner.padding[axis] = 0;
  }
  return inner;
}

std::unique_ptr<Reorder> fold_pictures(const Conv2dSpec& spec, bool from_last) {
  return std::make_unique<FoldPictures>(spec, from_last);
}

std::unique_ptr<Reorder> fold_weights(const Conv2dSpec& spec) {
  return std::make_unique<FoldWeights>(spec, /*back=*/false);
}

std::unique_ptr<Reorder> unfold_weights(const Conv2dSpec& spec) {
  return std::make_unique<FoldWeights>(spec, /*back=*/true);
}

}  // namespace peal::cuda
