// Kernels that move elements; broadcast scales them as well. Each element is read and written once.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/transpose.cuh"

namespace peal::cuda {
void CudaKernels::transpose(Stream& s, const Tensor& x, std::span<const int> perm, Tensor y) {
  const int rank = x.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Nest nest;  // over y in row-major order; operands x, y
  for (std::size_t i = 0; i < perm.size(); ++i) {
    const auto axis = static_cast<std::size_t>(perm[i]);
    nest.add(y.shape[static_cast<int>(i)], {x_strides[axis], y_strides[i], 0});
  }
  permute(s, "transpose", nest, x.as<float>(), y.as<float>());
}

void CudaKernels::copy_box(Stream& s, const Tensor& x, std::span<const std::int64_t> x_start,
                           Tensor y, std::span<const std::int64_t> y_start, const Shape& extent) {
  const int rank = extent.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  const float* from = x.as<float>();
  float* to = y.as<float>();
  Nest nest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    from += x_start[i] * x_strides[i];
    to += y_start[i] * y_strides[i];
    nest.add(extent[static_cast<int>(i)], {x_strides[i], y_strides[i], 0});
  }
  for_nest<1>(s, "copy_box", nest, {from}, to, CopyElement{});
}

void CudaKernels::broadcast(Stream& s, const Tensor& x, float factor, Tensor y) {
  const int rank = y.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Nest nest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    nest.add(y.shape[static_cast<int>(i)], {x_strides[i], y_strides[i], 0});
  }
  for_stored(y.dtype, [&]<typename T>(Stored<T>) {
    for_nest<1, float, T>(s, "broadcast", nest, {x.as<float>()}, y.as<T>(), ScaleElement{factor});
  });
}

}  // namespace peal::cuda
