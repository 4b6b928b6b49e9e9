// Pooling of tensors whose channels lie side by side: a thread has some channels of a place, and of
// others of its line. What it sums, and in which order, is what pool2d.cu does.
//
// Few bytes belong to a place, so that what it takes to find its windows counts beside moving them:
// what a line has in common is found once for several of its places, and all that a thread needs of
// small windows is read before it looks at the first.
#include <bit>

#include "core/kernels/cuda/axes.h"
#include "core/kernels/cuda/channels_last.h"
#include "core/kernels/cuda/pool2d.cuh"

namespace peal::cuda {
namespace {

// The lines (B, H) of (B, H, W, packs of channels), each of `packs` packs a column.
struct Lines {
  Divider rows;
  std::int64_t count;
  Division packs;
  unsigned size;   // of a line: columns * packs
  int width_log2;  // threads that share a line

  Lines(std::int64_t records, std::int64_t height, std::int64_t width, std::int64_t row_packs)
      : rows(height),
        count(records * height),
        packs(Division::by(static_cast<std::uint32_t>(row_packs))),
        size(static_cast<unsigned>(width * row_packs)),
        width_log2(std::countr_zero(std::bit_ceil(std::clamp<unsigned>(size, 32, kThreads)))) {}

  unsigned blocks() const { return blocks_for(count << width_log2, kThreads); }
};

// A thread's line, and its first place there; the next one is `step` further.
struct Line {
  std::int64_t line, record;
  int row;
  unsigned first, step;

  __device__ explicit Line(const Lines& of)
      : line(static_cast<std::int64_t>(blockIdx.x) * (kThreads >> of.width_log2) +
             (threadIdx.x >> of.width_log2)),
        record(of.rows.divide(line)),
        row(static_cast<int>(line - record * of.rows.value())),
        first(threadIdx.x & ((1u << of.width_log2) - 1)),
        step(1u << of.width_log2) {}
};

// Which elements of their windows came first, of neighbouring channels.
template <typename Saved, int kWidth>
struct alignas(sizeof(Saved) * kWidth) Firsts {
  Saved of[kWidth];
};

// The largest of what it takes, or the sum.
template <PoolKind kKind, int kWidth, typename Saved>
struct Pooled {
  Pack<kWidth> best = {};
  Firsts<Saved, kWidth> firsts = {};
  bool none = true;

  __device__ void take(const Pack<kWidth>& v, int place) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      if constexpr (kKind == PoolKind::average) {
        best.of[e] += v.of[e];
      } else if (none || v.of[e] > best.of[e] || v.of[e] != v.of[e]) {
        best.of[e] = v.of[e];
        firsts.of[e] = static_cast<Saved>(place);
      }
    }
    none = false;
  }
};

// kSide: of a square window, or 0 for any.
template <PoolKind kKind, int kSide, int kWidth, typename Saved, typename T>
__global__ void __launch_bounds__(kThreads)
    channels_forward(Window w, Lines of, const T* x, T* y, Saved* saved) {
  const Line at(of);
  if (at.line >= of.count) return;
  const int first_row = at.row * w.stride[0] - w.padding[0];
  const Inside rows(first_row, w.kernel[0], w.height);
  const auto packs = static_cast<int>(of.packs.divisor);
  const std::int64_t line_size = static_cast<std::int64_t>(w.width) * packs * kWidth;
  const T* const window = x + (at.record * w.height + first_row) * line_size;
  for (unsigned i = at.first; i < of.size; i += at.step) {
    const auto column = static_cast<int>(of.packs.quotient(i));
    const int first_column = column * w.stride[1] - w.padding[1];
    const Inside columns(first_column, w.kernel[1], w.width);
    const int pack = static_cast<int>(i) - column * packs;
    const auto from = [&](int r, int c) {
      return window + r * line_size + ((first_column + c) * packs + pack) * kWidth;
    };
    Pooled<kKind, kWidth, Saved> pooled;
    if constexpr (kSide > 0) {
      const auto has = [&](int r, int c) {
        return r >= rows.from && r < rows.to && c >= columns.from && c < columns.to;
      };
      AsRead<kWidth, T> read[kSide][kSide];
#pragma unroll
      for (int r = 0; r < kSide; ++r) {
#pragma unroll
        for (int c = 0; c < kSide; ++c) {
          if (has(r, c)) read[r][c] = read_as_is<kWidth>(from(r, c), true);
        }
      }
#pragma unroll
      for (int r = 0; r < kSide; ++r) {
#pragma unroll
        for (int c = 0; c < kSide; ++c) {
          if (has(r, c)) pooled.take(read[r][c].widened(), r * kSide + c);
        }
      }
    } else {
      for (int r = rows.from; r < rows.to; ++r) {
#pragma unroll 4
        for (int c = columns.from; c < columns.to; ++c) {
          pooled.take(load_pack<kWidth>(from(r, c)), r * w.kernel[1] + c);
        }
      }
    }
    if constexpr (kKind == PoolKind::average) {
      const float divisor = divisor_of(w, rows, columns);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) pooled.best.of[e] /= divisor;
    }
    const std::int64_t to = (at.line * of.size + i) * kWidth;
    store_pack(y + to, pooled.best);
    if constexpr (kKind == PoolKind::max) {
      if (saved != nullptr) *reinterpret_cast<Firsts<Saved, kWidth>*>(saved + to) = pooled.firsts;
    }
  }
}

// What a window sent to a place of it.
template <PoolKind kKind, int kWidth, typename Saved, typename T>
struct Sent {
  AsRead<kWidth, T> values;
  Firsts<Saved, kWidth> firsts;

  __device__ void read(const T* dy, const Saved* saved, std::int64_t at) {
    values = read_as_is<kWidth>(dy + at, true);
    if constexpr (kKind == PoolKind::max) {
      firsts = *reinterpret_cast<const Firsts<Saved, kWidth>*>(saved + at);
    }
  }
  __device__ void add_to(Pack<kWidth>& sum, int place, float divisor) const {
    const Pack<kWidth> v = values.widened();
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      if constexpr (kKind == PoolKind::average) {
        sum.of[e] += v.of[e] / divisor;
      } else if (firsts.of[e] == place) {
        sum.of[e] += v.of[e];
      }
    }
  }
};

// kFew: a place lies in two windows along each axis at most.
template <PoolKind kKind, bool kFew, int kWidth, typename Saved, typename T>
__global__ void __launch_bounds__(kThreads)
    channels_backward(Window w, Lines of, const T* dy, const Saved* saved, T* dx) {
  const Line at(of);
  if (at.line >= of.count) return;
  const Holders rows(at.row, w, 0);
  const auto packs = static_cast<int>(of.packs.divisor);
  const std::int64_t line_size = static_cast<std::int64_t>(w.out_width) * packs * kWidth;
  const std::int64_t windows = at.record * w.out_height * line_size;
  for (unsigned i = at.first; i < of.size; i += at.step) {
    const auto column = static_cast<int>(of.packs.quotient(i));
    const Holders columns(column, w, 1);
    const int pack = static_cast<int>(i) - column * packs;
    const auto from = [&](int r, int c) {
      return windows + r * line_size + (c * packs + pack) * kWidth;
    };
    Pack<kWidth> sum = {};
    const auto add = [&](const Sent<kKind, kWidth, Saved, T>& sent, int r, int c) {
      const int first_row = r * w.stride[0] - w.padding[0];
      const int first_column = c * w.stride[1] - w.padding[1];
      float divisor = 1;
      if constexpr (kKind == PoolKind::average) {
        divisor = divisor_of(w, Inside(first_row, w.kernel[0], w.height),
                             Inside(first_column, w.kernel[1], w.width));
      }
      sent.add_to(sum, (at.row - first_row) * w.kernel[1] + column - first_column, divisor);
    };
    if constexpr (kFew) {
      const auto has = [&](int r, int c) {
        return rows.from + r < rows.to && columns.from + c < columns.to;
      };
      Sent<kKind, kWidth, Saved, T> sent[2][2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (has(r, c)) sent[r][c].read(dy, saved, from(rows.from + r, columns.from + c));
        }
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (has(r, c)) add(sent[r][c], rows.from + r, columns.from + c);
        }
      }
    } else {
      for (int r = rows.from; r < rows.to; ++r) {
        for (int c = columns.from; c < columns.to; ++c) {
          Sent<kKind, kWidth, Saved, T> sent;
          sent.read(dy, saved, from(r, c));
          add(sent, r, c);
        }
      }
    }
    store_pack(dx + (at.line * of.size + i) * kWidth, sum);
  }
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
  static Lines lines_of(const Shape& of, int width) { return {of[0], of[2], of[3], of[1] / width}; }

  // launch(width) with packs of channels, or one by one.
  template <class F>
  void for_packs(const Tensor& a, const Tensor& b, const F& launch) const {
    if (wide(a, b)) return launch(std::integral_constant<int, kWideOf<T>>());
    launch(std::integral_constant<int, 1>());
  }

  template <PoolKind kKind, typename Saved>
  void forward_as(const Stream& s, const Tensor& x, const Tensor& y, Saved* saved) const {
    if (y_.numel() == 0) return;
    const OnStream on(s);
    const int side = window_.kernel[0] == window_.kernel[1] ? window_.kernel[0] : 0;
    for_packs(x, y, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      const auto kernel = side == 2   ? channels_forward<kKind, 2, kWidth, Saved, T>
                          : side == 3 ? channels_forward<kKind, 3, kWidth, Saved, T>
                                      : channels_forward<kKind, 0, kWidth, Saved, T>;
      const Lines lines = lines_of(y_, kWidth);
      kernel<<<lines.blocks(), kThreads, 0, on.stream>>>(window_, lines, x.as<T>(), y.as<T>(),
                                                         saved);
    });
    check_launch("pool2d");
  }

  template <PoolKind kKind, typename Saved>
  void backward_as(const Stream& s, const Tensor& dy, const Saved* saved, const Tensor& dx) const {
    if (dx.numel() == 0) return;
    const OnStream on(s);
    const bool few =
        window_.kernel[0] <= 2 * window_.stride[0] && window_.kernel[1] <= 2 * window_.stride[1];
    for_packs(dy, dx, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      const auto kernel = few ? channels_backward<kKind, true, kWidth, Saved, T>
                              : channels_backward<kKind, false, kWidth, Saved, T>;
      const Lines lines = lines_of(spec_.x, kWidth);
      kernel<<<lines.blocks(), kThreads, 0, on.stream>>>(window_, lines, dy.as<T>(), saved,
                                                         dx.as<T>());
    });
    check_launch("pool2d backward");
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
