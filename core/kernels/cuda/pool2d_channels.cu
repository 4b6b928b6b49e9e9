// Pooling of tensors whose channels lie side by side: a thread has some channels of one place. What
// it sums, and in which order, is what pool2d.cu does.
#include "core/kernels/cuda/axes.h"
#include "core/kernels/cuda/channels_last.h"
#include "core/kernels/cuda/pool2d.cuh"

namespace peal::cuda {
namespace {

// (B, H, W, packs of channels), counted in that order.
struct Places {
  Divider packs, columns, rows;
  std::int64_t count;

  Places(std::int64_t records, std::int64_t height, std::int64_t width, std::int64_t row_packs)
      : packs(row_packs),
        columns(width),
        rows(height),
        count(records * height * width * row_packs) {}
};

struct Place {
  std::int64_t record;
  int row, column, pack;

  __device__ Place(const Places& of, std::int64_t i) {
    const std::int64_t pixel = of.packs.divide(i), line = of.columns.divide(pixel);
    record = of.rows.divide(line);
    pack = static_cast<int>(i - pixel * of.packs.value());
    column = static_cast<int>(pixel - line * of.columns.value());
    row = static_cast<int>(line - record * of.rows.value());
  }
};

// Which elements of their windows came first, of neighbouring channels.
template <typename Saved, int kWidth>
struct alignas(sizeof(Saved) * kWidth) Firsts {
  Saved of[kWidth];
};

template <PoolKind kKind, int kWidth, typename Saved, typename T>
__global__ void __launch_bounds__(kThreads)
    channels_forward(Window w, Places of, std::int64_t channels, const T* x, T* y, Saved* saved) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= of.count) return;
  const Place at(of, i);
  const int first_row = at.row * w.stride[0] - w.padding[0];
  const int first_column = at.column * w.stride[1] - w.padding[1];
  const Inside rows(first_row, w.kernel[0], w.height);
  const Inside columns(first_column, w.kernel[1], w.width);
  Pack<kWidth> best = {};  // or the sums
  Firsts<Saved, kWidth> firsts = {};
  bool none = true;
  for (int r = rows.from; r < rows.to; ++r) {
    const std::int64_t line = at.record * w.height + first_row + r;
    const T* const from = x + (line * w.width + first_column) * channels + at.pack * kWidth;
#pragma unroll 4
    for (int c = columns.from; c < columns.to; ++c) {
      const Pack<kWidth> v = load_pack<kWidth>(from + c * channels);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if constexpr (kKind == PoolKind::average) {
          best.of[e] += v.of[e];
        } else if (none || v.of[e] > best.of[e] || v.of[e] != v.of[e]) {
          best.of[e] = v.of[e];
          firsts.of[e] = static_cast<Saved>(r * w.kernel[1] + c);
        }
      }
      none = false;
    }
  }
  if constexpr (kKind == PoolKind::average) {
    const float divisor = divisor_of(w, rows, columns);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) best.of[e] /= divisor;
  }
  store_pack(y + i * kWidth, best);
  if constexpr (kKind == PoolKind::max) {
    if (saved != nullptr) *reinterpret_cast<Firsts<Saved, kWidth>*>(saved + i * kWidth) = firsts;
  }
}

template <PoolKind kKind, int kWidth, typename Saved, typename T>
__global__ void __launch_bounds__(kThreads)
    channels_backward(Window w, Places of, std::int64_t channels, const T* dy, const Saved* saved,
                      T* dx) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= of.count) return;
  const Place at(of, i);
  const Holders rows(at.row, w.kernel[0], w.stride[0], w.padding[0], w.out_height);
  const Holders columns(at.column, w.kernel[1], w.stride[1], w.padding[1], w.out_width);
  Pack<kWidth> sum = {};
  for (int r = rows.from; r < rows.to; ++r) {
    const int first_row = r * w.stride[0] - w.padding[0];
    const std::int64_t line = at.record * w.out_height + r;
    for (int c = columns.from; c < columns.to; ++c) {
      const int first_column = c * w.stride[1] - w.padding[1];
      const std::int64_t out = (line * w.out_width + c) * channels + at.pack * kWidth;
      const Pack<kWidth> sent = load_pack<kWidth>(dy + out);
      if constexpr (kKind == PoolKind::max) {
        const int place = (at.row - first_row) * w.kernel[1] + at.column - first_column;
        const auto firsts = *reinterpret_cast<const Firsts<Saved, kWidth>*>(saved + out);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          if (firsts.of[e] == place) sum.of[e] += sent.of[e];
        }
      } else {
        const float divisor = divisor_of(w, Inside(first_row, w.kernel[0], w.height),
                                         Inside(first_column, w.kernel[1], w.width));
#pragma unroll
        for (int e = 0; e < kWidth; ++e) sum.of[e] += sent.of[e] / divisor;
      }
    }
  }
  store_pack(dx + i * kWidth, sum);
}

template <typename T>
class ChannelsPool2d final : public Pool2d {
 public:
  explicit ChannelsPool2d(const Pool2dSpec& spec)
      : spec_(spec),
        y_(spec.y()),
        window_(Window::of(spec)),
        keeps_places_(spec.kind == PoolKind::max && spec.training) {}

  // Of one pixel it is row-major.
  const Layout* y_layout() const override { return channels_last(y_, spec_.stored); }
  std::size_t saved_bytes() const override {
    if (!keeps_places_) return 0;
    return static_cast<std::size_t>(y_.numel()) * (window_.small() ? 1 : sizeof(std::int32_t));
  }
  std::size_t scratch_bytes() const override { return 0; }

  // Costs what is said in pool2d.cu.
  void forward(Stream& s, const Tensor& x, Tensor y, Tensor saved, Tensor) override {
    if (spec_.kind == PoolKind::average) {
      forward_as<PoolKind::average, std::uint8_t>(s, x, y, nullptr);
    } else if (window_.small()) {
      forward_as<PoolKind::max>(s, x, y, keeps_places_ ? saved.as<std::uint8_t>() : nullptr);
    } else {
      forward_as<PoolKind::max>(s, x, y, keeps_places_ ? saved.as<std::int32_t>() : nullptr);
    }
  }
  void backward(Stream& s, const Tensor& dy, const Tensor& saved, Tensor dx, Tensor) override {
    if (spec_.kind == PoolKind::average) {
      backward_as<PoolKind::average, std::uint8_t>(s, dy, nullptr, dx);
    } else if (window_.small()) {
      backward_as<PoolKind::max>(s, dy, saved.as<const std::uint8_t>(), dx);
    } else {
      backward_as<PoolKind::max>(s, dy, saved.as<const std::int32_t>(), dx);
    }
  }

 private:
  // One channel at a time where packs would not fit.
  bool wide(const Tensor& a, const Tensor& b) const {
    return spec_.x[1] % kWideOf<T> == 0 && aligned(a.data) && aligned(b.data);
  }
  static Places places_of(const Shape& of, int width) {
    return {of[0], of[2], of[3], of[1] / width};
  }

  template <PoolKind kKind, typename Saved>
  void forward_as(const Stream& s, const Tensor& x, const Tensor& y, Saved* saved) const {
    if (y_.numel() == 0) return;
    const OnStream on(s);
    const auto launch = [&](auto kernel, int width) {
      const Places places = places_of(y_, width);
      kernel<<<blocks_for(places.count, kThreads), kThreads, 0, on.stream>>>(
          window_, places, spec_.x[1], x.as<T>(), y.as<T>(), saved);
      check_launch("pool2d");
    };
    if (wide(x, y)) return launch(channels_forward<kKind, kWideOf<T>, Saved, T>, kWideOf<T>);
    launch(channels_forward<kKind, 1, Saved, T>, 1);
  }

  template <PoolKind kKind, typename Saved>
  void backward_as(const Stream& s, const Tensor& dy, const Saved* saved, const Tensor& dx) const {
    if (dx.numel() == 0) return;
    const OnStream on(s);
    const auto launch = [&](auto kernel, int width) {
      const Places places = places_of(spec_.x, width);
      kernel<<<blocks_for(places.count, kThreads), kThreads, 0, on.stream>>>(
          window_, places, spec_.x[1], dy.as<T>(), saved, dx.as<T>());
      check_launch("pool2d backward");
    };
    if (wide(dy, dx)) return launch(channels_backward<kKind, kWideOf<T>, Saved, T>, kWideOf<T>);
    launch(channels_backward<kKind, 1, Saved, T>, 1);
  }

  Pool2dSpec spec_;
  Shape y_;
  Window window_;
  bool keeps_places_;
};

}  // namespace

std::unique_ptr<Pool2d> make_channels_pool2d(const Pool2dSpec& spec) {
  std::unique_ptr<Pool2d> made;
  for_stored(spec.stored,
             [&]<typename T>(Stored<T>) { made = std::make_unique<ChannelsPool2d<T>>(spec); });
  return made;
}

}  // namespace peal::cuda
