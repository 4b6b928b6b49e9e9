// Copies between row-major and channels-last or padded rows, f32 and a half type: each element is
// read and written once.
#include <algorithm>

#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/transpose.cuh"
#include "core/kernels/elements.h"
#include "core/kernels/layout.h"

namespace peal::cuda {
namespace {

// Elements as they lie, of the same layout on both sides.
class Convert final : public Reorder {
 public:
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Tensor& from, Tensor to, Tensor) override {
    if (from.dtype == to.dtype) return peal::kernels(s.device()).copy(s, from, to);
    for_stored(from.dtype, [&]<typename From>(Stored<From>) {
      for_stored(to.dtype, [&]<typename To>(Stored<To>) {
        for_elements<1, 1, From, To>(s, "convert", elements(from), {from.as<From>()}, {to.as<To>()},
                                     CopyElement{});
      });
    });
  }
};

class Turn final : public Reorder {
 public:
  Turn(const Shape& shape, bool to_channels_last) {
    const std::int64_t records = shape[0], channels = shape[1];
    const std::int64_t pixels = shape.numel() / std::max<std::int64_t>(records * channels, 1);
    const std::int64_t record = channels * pixels;
    nest_.add(records, {record, record, 0});
    if (to_channels_last) {
      nest_.add(pixels, {1, channels, 0});
      nest_.add(channels, {pixels, 1, 0});
    } else {
      nest_.add(channels, {1, pixels, 0});
      nest_.add(pixels, {channels, 1, 0});
    }
  }
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Tensor& from, Tensor to, Tensor) override {
    for_stored(from.dtype, [&]<typename From>(Stored<From>) {
      for_stored(to.dtype, [&]<typename To>(Stored<To>) {
        permute(s, "reorder", nest_, from.as<From>(), to.as<To>());
      });
    });
  }

 private:
  Nest nest_;
};

// Block (x, y): a part of row y, y + gridDim.y, ... Odd rows are aligned to an element alone, so
// elements are read one by one, neighbours by neighbouring threads. Behind `columns` come zeros.
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads)
    copy_rows(const From* from, std::int64_t from_pitch, To* to, std::int64_t to_pitch,
              std::int64_t rows, std::int64_t columns) {
  constexpr int kMine = 8;  // elements of a thread, which are read before any is written
  const std::int64_t first =
      static_cast<std::int64_t>(blockIdx.x) * (kMine * kThreads) + threadIdx.x;
  for (std::int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    float v[kMine] = {};
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t c = first + k * kThreads;
      if (c < columns) v[k] = widen(from[r * from_pitch + c]);
    }
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t c = first + k * kThreads;
      if (c < to_pitch) to[r * to_pitch + c] = rounded<To>(v[k]);
    }
  }
}

class RowByRow final : public Reorder {
 public:
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Tensor& from, Tensor to, Tensor) override {
    constexpr std::int64_t kMostRows = 65535, kOfBlock = 8 * kThreads;  // of a grid, along y
    const std::int64_t columns = from.shape[-1], rows = from.numel() / columns;
    const OnStream on(s);
    const dim3 blocks(blocks_for(row_pitch(to), kOfBlock),
                      static_cast<unsigned>(std::min(rows, kMostRows)));
    for_stored(from.dtype, [&]<typename From>(Stored<From>) {
      for_stored(to.dtype, [&]<typename To>(Stored<To>) {
        copy_rows<From, To><<<blocks, kThreads, 0, on.stream>>>(
            from.as<From>(), row_pitch(from), to.as<To>(), row_pitch(to), rows, columns);
      });
    });
    check_launch("reorder of padded rows");
  }
};

bool padded(const Form& form) {
  return form.layout != nullptr && form.layout->row_pitch > 0;
}

}  // namespace

std::int64_t CudaKernels::padded_columns(std::int64_t rows, std::int64_t columns,
                                         DType stored) const {
  constexpr std::int64_t kOften = 256, kLine = 64;  // halves of 128 bytes
  const bool pays =
      stored != DType::f32 && columns % kWideOf<F16> != 0 && columns > kOften && rows >= kOften;
  return pays ? ceil_div(columns, kLine) * kLine : columns;
}

std::unique_ptr<Reorder> CudaKernels::make_reorder(const Shape& shape, const Form& from,
                                                   const Form& to) {
  if (padded(from) || padded(to)) return std::make_unique<RowByRow>();
  if ((from.layout == nullptr) == (to.layout == nullptr)) return std::make_unique<Convert>();
  return std::make_unique<Turn>(shape, to.layout != nullptr);
}

}  // namespace peal::cuda
