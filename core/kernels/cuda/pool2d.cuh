// Windows of pooling, for row-major tensors and for channels-last ones. For .cu files alone.
#pragma once

#include <memory>

#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/cuda/walk.h"
#include "core/kernels/kernels.h"

namespace peal::cuda {

// x and y as (B, H, W, C).
std::unique_ptr<Pool2d> make_channels_pool2d(const Pool2dSpec& spec);

struct Window {
  int height, width;          // of x
  int out_height, out_width;  // of y
  int kernel[2], stride[2], padding[2];
  Division by_stride[2];
  bool include_padding;

  static Window of(const Pool2dSpec& spec) {
    const Shape y = spec.y();
    Window w{};
    w.height = static_cast<int>(spec.x[2]);
    w.width = static_cast<int>(spec.x[3]);
    w.out_height = static_cast<int>(y[2]);
    w.out_width = static_cast<int>(y[3]);
    w.include_padding = spec.include_padding;
    for (int i = 0; i < 2; ++i) {
      w.kernel[i] = static_cast<int>(spec.kernel[i]);
      w.stride[i] = static_cast<int>(spec.stride[i]);
      w.padding[i] = static_cast<int>(spec.padding[i]);
      w.by_stride[i] = Division::by(static_cast<std::uint32_t>(spec.stride[i]));
    }
    return w;
  }
  // A byte holds every place of a window.
  bool small() const { return static_cast<std::int64_t>(kernel[0]) * kernel[1] <= 256; }
};

// A run of a window along one axis that lies inside of x: [from, to) counted in the window.
struct Inside {
  int from, to;
  __device__ Inside(int start, int kernel, int size)
      : from(max(0, -start)), to(min(kernel, size - start)) {}
  __device__ int size() const { return to - from; }
};

__device__ inline float divisor_of(const Window& w, const Inside& rows, const Inside& columns) {
  return static_cast<float>(w.include_padding ? w.kernel[0] * w.kernel[1]
                                              : rows.size() * columns.size());
}

// The windows along one axis that hold place `at`: [from, to).
struct Holders {
  int from, to;
  __device__ Holders(int at, const Window& w, int axis)
      : from(windows_until(at + w.padding[axis] - w.kernel[axis] + w.stride[axis], w, axis)),
        to(min(axis == 0 ? w.out_height : w.out_width,
               windows_until(at + w.padding[axis], w, axis) + 1)) {}

 private:
  __device__ static int windows_until(int distance, const Window& w, int axis) {
    return static_cast<int>(w.by_stride[axis].quotient(static_cast<unsigned>(max(0, distance))));
  }
};

}  // namespace peal::cuda
