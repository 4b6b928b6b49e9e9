#include <algorithm>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/elements.h"

namespace peal::cuda {
namespace {

struct Constant {
  float value;
  __device__ void operator()(const float*, float* to) const { *to = value; }
};

struct Values {
  std::int64_t of[Kernels::kMostValues];
};

// As arguments of a launch they are taken when it is enqueued.
__global__ void set_values_kernel(Values values, int count, std::int64_t* to) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) to[i] = values.of[i];
}

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

void CudaKernels::set_values(Stream& s, std::span<const std::int64_t> values, Tensor to) {
  if (values.empty()) return;
  Values given{};
  std::copy(values.begin(), values.end(), given.of);
  const OnStream on(s);
  set_values_kernel<<<1, kMostValues, 0, on.stream>>>(given, static_cast<int>(values.size()),
                                                      to.as<std::int64_t>());
  check_launch("set_values");
}

}  // namespace peal::cuda
