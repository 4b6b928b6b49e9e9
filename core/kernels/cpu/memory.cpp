#include <algorithm>
#include <cstring>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/pieces.h"
#include "core/kernels/elements.h"

namespace peal::cpu {

void CpuKernels::fill(Stream&, Tensor x, float value) {
  for_pieces(x.dtype, elements(x), [&](std::int64_t first, std::int64_t n) {
    std::fill_n(static_cast<float*>(Writes(x, first, n)), n, value);
  });
}

void CpuKernels::copy(Stream&, const Tensor& from, Tensor to) {
  if (from.data == to.data || from.empty()) return;
  std::memcpy(to.data, from.data, from.layout == nullptr ? from.bytes() : layout_bytes(from));
}

void CpuKernels::set_values(Stream&, std::span<const std::int64_t> values, Tensor to) {
  std::memcpy(to.data, values.data(), values.size_bytes());
}

}  // namespace peal::cpu
