#include <algorithm>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/pieces.h"

namespace peal::cpu {
namespace {

PEAL_CLONES void add_row(const float* x, float* y, std::int64_t n) {
  PEAL_ELEMENTWISE
  for (std::int64_t i = 0; i < n; ++i) y[i] += x[i];
}

}  // namespace

void CpuKernels::embedding(Stream&, const Tensor& ids, const Tensor& table, Tensor y) {
  const std::int64_t columns = table.shape[-1];
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    const float* from = table.as<float>() + ids.as<std::int32_t>()[i] * columns;
    for_pieces(y.dtype, columns, [&](std::int64_t first, std::int64_t n) {
      std::copy_n(from + first, n, static_cast<float*>(Writes(y, i * columns + first, n)));
    });
  }
}

void CpuKernels::embedding_backward(Stream&, const Tensor& ids, const Tensor& dy, Tensor dtable) {
  const std::int64_t columns = dtable.shape[-1];
  std::fill_n(dtable.as<float>(), dtable.numel(), 0.0f);
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    float* to = dtable.as<float>() + ids.as<std::int32_t>()[i] * columns;
    for_pieces(dy.dtype, columns, [&](std::int64_t first, std::int64_t n) {
      add_row(Reads(dy, i * columns + first, n), to + first, n);
    });
  }
}

}  // namespace peal::cpu
