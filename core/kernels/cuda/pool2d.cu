#include <algorithm>
#include <memory>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/pool2d.cuh"

namespace peal::cuda {
namespace {

constexpr int kPlanes = 4;  // images of one channel that a thread serves, at one place of each
constexpr std::int64_t kMostThreads = std::int64_t{1} << 31;  // of a launch: 32 bits count them

// y, and for a maximum which element of its window was the first to have it (saved, if wanted).
// kSize > 0: both sides of the window, so that its loops are unrolled. A NaN is the maximum.
template <PoolKind kKind, int kSize, typename Saved, typename T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Window w, unsigned planes, const T* x, T* y, Saved* saved) {
  const unsigned area = w.out_height * w.out_width;
  const unsigned i = blockIdx.x * kThreads + threadIdx.x, group = i / area, at = i % area;
  const int first_row = static_cast<int>(at / w.out_width) * w.stride[0] - w.padding[0];
  const int first_column = static_cast<int>(at % w.out_width) * w.stride[1] - w.padding[1];
  const int kernel_rows = kSize > 0 ? kSize : w.kernel[0];
  const int kernel_columns = kSize > 0 ? kSize : w.kernel[1];
  const Inside rows(first_row, kernel_rows, w.height);
  const Inside columns(first_column, kernel_columns, w.width);
  const std::int64_t x_area = static_cast<std::int64_t>(w.height) * w.width;
  const std::int64_t corner = static_cast<std::int64_t>(first_row) * w.width + first_column;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const unsigned plane = group * kPlanes + p;
    if (plane >= planes) return;
    const T* const from = x + plane * x_area + corner;
    float best = 0.0f;  // or the sum
    int place = -1;
#pragma unroll
    for (int r = 0; r < kernel_rows; ++r) {
      if (r < rows.from || r >= rows.to) continue;
#pragma unroll
      for (int c = 0; c < kernel_columns; ++c) {
        if (c < columns.from || c >= columns.to) continue;
        const float v = widen(from[static_cast<std::int64_t>(r) * w.width + c]);
        if constexpr (kKind == PoolKind::average) {
          best += v;
        } else if (place < 0 || v > best || v != v) {
          best = v;
          place = r * kernel_columns + c;
        }
      }
    }
    const std::int64_t out = static_cast<std::int64_t>(plane) * area + at;
    if constexpr (kKind == PoolKind::average) best /= divisor_of(w, rows, columns);
    y[out] = rounded<T>(best);
    if constexpr (kKind == PoolKind::max) {
      if (saved != nullptr) saved[out] = static_cast<Saved>(place);
    }
  }
}

// Rows of windows side by side that hold x, those that x cuts off included.
__host__ __device__ int bands_of(const Window& w) {
  return (w.height + w.kernel[0] - 1) / w.kernel[0];
}

// dx gathers, in their order, what the windows that hold it send.
template <PoolKind kKind, typename Saved, typename T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Window w, unsigned planes, const T* dy, const Saved* saved, T* dx) {
  const unsigned area = w.height * w.width;
  const unsigned i = blockIdx.x * kThreads + threadIdx.x, group = i / area, at = i % area;
  const int row = static_cast<int>(at / w.width), column = static_cast<int>(at % w.width);
  const Holders rows(row, w, 0);
  const Holders columns(column, w, 1);
  const std::int64_t y_area = static_cast<std::int64_t>(w.out_height) * w.out_width;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const unsigned plane = group * kPlanes + p;
    if (plane >= planes) return;
    const std::int64_t start = plane * y_area;
    float sum = 0.0f;
    for (int r = rows.from; r < rows.to; ++r) {
      const int first_row = r * w.stride[0] - w.padding[0];
      for (int c = columns.from; c < columns.to; ++c) {
        const int first_column = c * w.stride[1] - w.padding[1];
        const std::int64_t out = start + static_cast<std::int64_t>(r) * w.out_width + c;
        if constexpr (kKind == PoolKind::max) {
          const int place = (row - first_row) * w.kernel[1] + column - first_column;
          if (saved[out] == place) sum += widen(dy[out]);
        } else {
          sum += widen(dy[out]) / divisor_of(w, Inside(first_row, w.kernel[0], w.height),
                                             Inside(first_column, w.kernel[1], w.width));
        }
      }
    }
    dx[static_cast<std::int64_t>(plane) * area + at] = rounded<T>(sum);
  }
}

// dx of windows side by side (stride == kernel or one window, no padding): all lie inside of x. A
// thread has kWidth columns of the rows of one window, reads what their windows send once and
// writes 0 where there is none, at the right and the lower edge.
// kSize > 0: both sides of the window.
template <PoolKind kKind, int kSize, int kWidth, typename Saved, typename T>
__global__ void __launch_bounds__(kThreads)
    backward_apart(Window w, unsigned planes, const T* dy, const Saved* saved, T* dx) {
  constexpr int kSide = kSize > 0 ? kSize : 1;
  constexpr bool kWhole = kSize > 0 && kWidth % kSide == 0;  // windows of a thread
  constexpr int kWindows = kWhole ? kWidth / kSide : kWidth;
  const int kernel_rows = kSize > 0 ? kSize : w.kernel[0];
  const int kernel_columns = kSize > 0 ? kSize : w.kernel[1];
  const unsigned packs = w.width / kWidth;
  const unsigned area = packs * bands_of(w);
  const unsigned i = blockIdx.x * kThreads + threadIdx.x, group = i / area, at = i % area;
  const int band = static_cast<int>(at / packs), column = static_cast<int>(at % packs) * kWidth;
  const std::int64_t x_area = static_cast<std::int64_t>(w.height) * w.width;
  const std::int64_t y_area = static_cast<std::int64_t>(w.out_height) * w.out_width;
  const auto window_of = [&](int k) { return (column + k * (kWidth / kWindows)) / kernel_columns; };

  float sent[kPlanes][kWindows] = {};
  int places[kPlanes][kWindows] = {};
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const unsigned plane = group * kPlanes + p;
    if (plane >= planes || band >= w.out_height) break;
    const std::int64_t row = plane * y_area + static_cast<std::int64_t>(band) * w.out_width;
#pragma unroll
    for (int k = 0; k < kWindows; ++k) {
      if (window_of(k) >= w.out_width) continue;
      sent[p][k] = widen(dy[row + window_of(k)]);
      if constexpr (kKind == PoolKind::max) places[p][k] = saved[row + window_of(k)];
    }
  }
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const unsigned plane = group * kPlanes + p;
    if (plane >= planes) return;
    if constexpr (kKind == PoolKind::average) {
#pragma unroll
      for (int k = 0; k < kWindows; ++k) {
        sent[p][k] /= static_cast<float>(kernel_rows * kernel_columns);
      }
    }
    T* const to = dx + plane * x_area + column;
#pragma unroll
    for (int r = 0; r < kernel_rows; ++r) {
      const int row = band * kernel_rows + r;
      if (row >= w.height) break;
      Pack<kWidth> pack;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const int k = e / (kWidth / kWindows);
        const int place = r * kernel_columns + column + e - window_of(k) * kernel_columns;
        const bool mine = kKind == PoolKind::average || places[p][k] == place;
        pack.of[e] = mine ? sent[p][k] : 0.0f;
      }
      store_pack<kWidth>(to + static_cast<std::int64_t>(row) * w.width, pack);
    }
  }
}

// ---- Launches ---------------------------------------------------------------------------------

// body(first plane, planes, blocks) for pieces of all planes whose threads 32 bits can count.
template <typename Body>
void for_planes(std::int64_t planes, std::int64_t area, Body body) {
  if (planes * area == 0) return;
  const std::int64_t groups = std::max<std::int64_t>(kMostThreads / area, 1);
  for (std::int64_t first = 0; first < planes; first += groups * kPlanes) {
    const std::int64_t count = std::min(groups * kPlanes, planes - first);
    body(first, static_cast<unsigned>(count),
         blocks_for(ceil_div(count, kPlanes) * area, kThreads));
  }
}

template <typename T>
class GatherPool2d final : public Pool2d {
 public:
  explicit GatherPool2d(const Pool2dSpec& spec)
      : kind_(spec.kind),
        window_(Window::of(spec)),
        planes_(spec.x[0] * spec.x[1]),
        keeps_places_(spec.kind == PoolKind::max && spec.training) {}

  const Layout* y_layout() const override { return nullptr; }
  std::size_t saved_bytes() const override {
    if (!keeps_places_) return 0;
    const std::int64_t places = planes_ * window_.out_height * window_.out_width;
    return static_cast<std::size_t>(places) * (window_.small() ? 1 : sizeof(std::int32_t));
  }
  std::size_t scratch_bytes() const override { return 0; }

  // Reads x and writes y once, and a byte for each of y when training.
  void forward(Stream& s, const Tensor& x, Tensor y, Tensor saved, Tensor) override {
    const OnStream on(s);
    if (kind_ == PoolKind::average) {
      forward_sized<PoolKind::average, std::uint8_t>(on, x, y, nullptr);
    } else if (window_.small()) {
      forward_sized<PoolKind::max>(on, x, y, keeps_places_ ? saved.as<std::uint8_t>() : nullptr);
    } else {
      forward_as<PoolKind::max, 0>(on, x, y, keeps_places_ ? saved.as<std::int32_t>() : nullptr);
    }
  }

  // Reads dy and saved and writes dx once; where windows overlap or threads share one the caches
  // serve the rest.
  void backward(Stream& s, const Tensor& dy, const Tensor& saved, Tensor dx, Tensor) override {
    const OnStream on(s);
    if (kind_ == PoolKind::average) {
      backward_as<PoolKind::average, std::uint8_t>(on, dy, nullptr, dx);
    } else if (window_.small()) {
      backward_as<PoolKind::max>(on, dy, saved.as<const std::uint8_t>(), dx);
    } else {
      backward_as<PoolKind::max>(on, dy, saved.as<const std::int32_t>(), dx);
    }
  }

 private:
  bool side_by_side() const {
    const int windows[2] = {window_.out_height, window_.out_width};
    for (int i = 0; i < 2; ++i) {
      if (window_.padding[i] != 0) return false;
      if (window_.stride[i] != window_.kernel[i] && windows[i] != 1) return false;
    }
    return true;
  }

  template <PoolKind kKind, typename Saved>
  void forward_sized(const OnStream& on, const Tensor& x, const Tensor& y, Saved* saved) const {
    const bool square = window_.kernel[0] == window_.kernel[1];
    if (square && window_.kernel[0] == 2) {
      forward_as<kKind, 2>(on, x, y, saved);
    } else if (square && window_.kernel[0] == 3) {
      forward_as<kKind, 3>(on, x, y, saved);
    } else {
      forward_as<kKind, 0>(on, x, y, saved);
    }
  }

  template <PoolKind kKind, int kSize, typename Saved>
  void forward_as(const OnStream& on, const Tensor& x, const Tensor& y, Saved* saved) const {
    const std::int64_t x_area = static_cast<std::int64_t>(window_.height) * window_.width;
    const std::int64_t area = static_cast<std::int64_t>(window_.out_height) * window_.out_width;
    for_planes(planes_, area, [&](std::int64_t first, unsigned planes, unsigned blocks) {
      forward_kernel<kKind, kSize><<<blocks, kThreads, 0, on.stream>>>(
          window_, planes, x.as<T>() + first * x_area, y.as<T>() + first * area,
          saved == nullptr ? saved : saved + first * area);
      check_launch("pool2d");
    });
  }

  template <PoolKind kKind, typename Saved>
  void backward_as(const OnStream& on, const Tensor& dy, const Saved* saved,
                   const Tensor& dx) const {
    if (side_by_side()) {
      if (window_.width % kWide != 0 || !aligned(dx.data)) {
        backward_apart_as<kKind, 0, 1>(on, dy, saved, dx);
      } else if (window_.kernel[0] == 2 && window_.kernel[1] == 2) {
        backward_apart_as<kKind, 2, kWide>(on, dy, saved, dx);
      } else {
        backward_apart_as<kKind, 0, kWide>(on, dy, saved, dx);
      }
      return;
    }
    const std::int64_t area = static_cast<std::int64_t>(window_.height) * window_.width;
    const std::int64_t y_area = static_cast<std::int64_t>(window_.out_height) * window_.out_width;
    for_planes(planes_, area, [&](std::int64_t first, unsigned planes, unsigned blocks) {
      backward_kernel<kKind><<<blocks, kThreads, 0, on.stream>>>(
          window_, planes, dy.as<T>() + first * y_area,
          saved == nullptr ? saved : saved + first * y_area, dx.as<T>() + first * area);
      check_launch("pool2d backward");
    });
  }

  template <PoolKind kKind, int kSize, int kWidth, typename Saved>
  void backward_apart_as(const OnStream& on, const Tensor& dy, const Saved* saved,
                         const Tensor& dx) const {
    const std::int64_t x_area = static_cast<std::int64_t>(window_.height) * window_.width;
    const std::int64_t y_area = static_cast<std::int64_t>(window_.out_height) * window_.out_width;
    const std::int64_t area = window_.width / kWidth * static_cast<std::int64_t>(bands_of(window_));
    for_planes(planes_, area, [&](std::int64_t first, unsigned planes, unsigned blocks) {
      backward_apart<kKind, kSize, kWidth><<<blocks, kThreads, 0, on.stream>>>(
          window_, planes, dy.as<T>() + first * y_area,
          saved == nullptr ? saved : saved + first * y_area, dx.as<T>() + first * x_area);
      check_launch("pool2d backward");
    });
  }

  PoolKind kind_;
  Window window_;
  std::int64_t planes_;
  bool keeps_places_;
};

}  // namespace

std::unique_ptr<Pool2d> CudaKernels::make_pool2d(const Pool2dSpec& spec) {
  if (spec.x_layout != nullptr) return make_channels_pool2d(spec);
  std::unique_ptr<Pool2d> made;
  for_stored(spec.stored,
             [&]<typename T>(Stored<T>) { made = std::make_unique<GatherPool2d<T>>(spec); });
  return made;
}

}  // namespace peal::cuda
