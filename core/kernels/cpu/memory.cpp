#include <cstring>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/elements.h"

namespace peal::cpu {

void CpuKernels::fill(Stream&, Tensor x, float value) {
  float* out = x.as<float>();
  const std::int64_t n = elements(x);
  for (std::int64_t i = 0; i < n; ++i) out[i] = value;
}

void CpuKernels::copy(Stream&, const Tensor& from, Tensor to) {
  if (from.data == to.data || from.empty()) return;
  std::memcpy(to.data, from.data, from.layout == nullptr ? from.bytes() : layout_bytes(from));
}

void CpuKernels::set_values(Stream&, std::span<const std::int64_t> values, Tensor to) {
  std::memcpy(to.data, values.data(), values.size_bytes());
}

}  // namespace peal::cpu
