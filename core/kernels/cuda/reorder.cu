// Copies between row-major and channels-last, f32 and a half type: each element is read and written
// once.
#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/transpose.cuh"
#include "core/kernels/elements.h"

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

}  // namespace

std::unique_ptr<Reorder> CudaKernels::make_reorder(const Shape& shape, const Form& from,
                                                   const Form& to) {
  if ((from.layout == nullptr) == (to.layout == nullptr)) return std::make_unique<Convert>();
  return std::make_unique<Turn>(shape, to.layout != nullptr);
}

}  // namespace peal::cuda
