#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/elements.h"

namespace peal::cuda {
namespace {

struct Constant {
  float value;
  __device__ void operator()(const float*, float* to) const { *to = value; }
};

}  // namespace

void CudaKernels::fill(Stream& s, Tensor x, float value) {
  for_stored(x.dtype, [&]<typename T>(Stored<T>) {
    for_elements<0, 1, T>(s, "fill", elements(x), {}, {x.as<T>()}, Constant{value});
  });
}

void CudaKernels::copy(Stream& s, const Tensor& from, Tensor to) {
  if (from.data == to.data || from.empty()) return;
  const std::size_t bytes = layout_bytes(from);
  if (bytes > 0) peal::copy(s, to.as<std::byte>(), from.as<std::byte>(), bytes);
}

}  // namespace peal::cuda
