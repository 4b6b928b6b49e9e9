#include <algorithm>
#include <numeric>

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

// Row by row, each from the list of its ids in their order. A piece of a row at a time is summed up
// where it stays in the cache, and then written.
void CpuKernels::embedding_backward(Stream&, const Tensor& ids, const Tensor& dy, bool adds,
                                    Tensor dtable, Tensor scratch) {
  const std::int64_t columns = dtable.shape[-1], n = ids.numel();
  const std::int64_t rows = columns == 0 ? 0 : dtable.numel() / columns;
  const auto* id = ids.as<std::int32_t>();
  auto* ends = scratch.as<std::int32_t>();  // (rows): where each list ends
  std::int32_t* list = ends + rows;         // (n)
  std::fill_n(ends, rows, 0);
  if (rows > 0)
    for (std::int64_t i = 0; i < n; ++i) ++ends[id[i]];
  std::exclusive_scan(ends, ends + rows, ends, 0);
  if (rows > 0)
    for (std::int64_t i = 0; i < n; ++i) list[ends[id[i]]++] = static_cast<std::int32_t>(i);
  float sum[kPieceElements];
  for (std::int64_t v = 0; v < rows; ++v) {
    const std::int32_t begin = v == 0 ? 0 : ends[v - 1], end = ends[v];
    float* row = dtable.as<float>() + v * columns;
    if (begin == end && adds) continue;
    for (std::int64_t first = 0; first < columns; first += kPieceElements) {
      const std::int64_t width = std::min(kPieceElements, columns - first);
      std::fill_n(sum, width, 0.0f);
      for (std::int32_t i = begin; i < end; ++i)
        add_row(Reads(dy, list[i] * columns + first, width), sum, width);
      if (adds)
        add_row(sum, row + first, width);
      else
        std::copy_n(sum, width, row + first);
    }
  }
}

}  // namespace peal::cpu
