#include "core/kernels/cuda/channels_last.h"
#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

// A tensor (records, channels, pixels), or with the channels of a pixel side by side.
struct Planes {
  std::int64_t channels, pixels;
  bool last;
  __device__ std::int64_t at(std::int64_t b, std::int64_t c, std::int64_t p) const {
    return last ? (b * pixels + p) * channels + c : (b * channels + c) * pixels + p;
  }
};

// A thread an element of `to`.
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads)
    resize_kernel(const From* from, Planes x, To* to, Planes y, Divider inner, Divider outer,
                  std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const std::int64_t rest = inner.divide(i), b = outer.divide(rest);
  const std::int64_t last = i - rest * inner.value(), middle = rest - b * outer.value();
  const std::int64_t c = y.last ? last : middle, p = y.last ? middle : last;
  to[i] = rounded<To>(c < x.channels ? widen(from[x.at(b, c, p)]) : 0.0f);
}

class ResizeChannels final : public Reorder {
 public:
  ResizeChannels(const Shape& from, const Shape& to, bool from_last, bool to_last)
      : records_(from[0]) {
    const std::int64_t pixels = from[2] * from[3];
    x_ = {from[1], pixels, from_last};
    y_ = {to[1], pixels, to_last};
  }
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Tensor& from, Tensor to, Tensor) override {
    const std::int64_t n = records_ * y_.channels * y_.pixels;
    if (n == 0) return;
    const Divider inner(y_.last ? y_.channels : y_.pixels);
    const Divider outer(y_.last ? y_.pixels : y_.channels);
    const OnStream on(s);
    for_stored(from.dtype, [&]<typename From>(Stored<From>) {
      for_stored(to.dtype, [&]<typename To>(Stored<To>) {
        resize_kernel<<<blocks_for(n, kThreads), kThreads, 0, on.stream>>>(
            from.as<From>(), x_, to.as<To>(), y_, inner, outer, n);
      });
    });
    check_launch("channels");
  }

 private:
  std::int64_t records_;
  Planes x_, y_;
};

}  // namespace

std::unique_ptr<Reorder> resize_channels(const Shape& from, const Shape& to, bool from_last,
                                         bool to_last) {
  return std::make_unique<ResizeChannels>(from, to, from_last, to_last);
}

}  // namespace peal::cuda
