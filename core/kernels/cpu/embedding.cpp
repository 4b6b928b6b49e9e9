#include <algorithm>
#include <cstring>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {
namespace {

PEAL_CLONES void add_row(const float* x, float* y, std::int64_t n) {
  PEAL_ELEMENTWISE
  for (std::int64_t i = 0; i < n; ++i) y[i] += x[i];
}

}  // namespace

void CpuKernels::embedding(Stream&, const Tensor& ids, const Tensor& table, Tensor y) {
  const std::int64_t columns = table.shape[-1];
  const auto bytes = static_cast<std::size_t>(columns) * sizeof(float);
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    std::memcpy(y.as<float>() + i * columns,
                table.as<float>() + ids.as<std::int32_t>()[i] * columns, bytes);
  }
}

void CpuKernels::embedding_backward(Stream&, const Tensor& ids, const Tensor& dy, Tensor dtable) {
  const std::int64_t columns = dtable.shape[-1];
  std::fill_n(dtable.as<float>(), dtable.numel(), 0.0f);
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    add_row(dy.as<float>() + i * columns, dtable.as<float>() + ids.as<std::int32_t>()[i] * columns,
            columns);
  }
}

}  // namespace peal::cpu
