#include <algorithm>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"
#include "core/kernels/cpu/pieces.h"
#include "core/kernels/layout.h"

namespace peal::cpu {
namespace {

class OneDnnReorder final : public Reorder {
 public:
  OneDnnReorder(const Shape& shape, const Form& from, const Form& to) {
    const auto source = program_.bound(describe(shape, from));
    const auto target = program_.bound(describe(shape, to));
    program_.convert(source, target);
  }

  std::size_t scratch_bytes() const override { return program_.scratch_bytes(); }
  void run(Stream&, const Tensor& from, Tensor to, Tensor scratch) override {
    program_.run({&from, &to}, scratch);
  }

 private:
  Program program_{"reorder"};
};

// Between row-major forms: of any rank, a scalar's included, which oneDNN has not.
class Conversion final : public Reorder {
 public:
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream&, const Tensor& from, Tensor to, Tensor) override {
    const DType narrower = size_of(from.dtype) < size_of(to.dtype) ? from.dtype : to.dtype;
    for_pieces(narrower, from.numel(), [&](std::int64_t first, std::int64_t n) {
      const Reads values(from, first, n);
      std::copy_n(static_cast<const float*>(values), n, static_cast<float*>(Writes(to, first, n)));
    });
  }
};

// Where rows of one or both forms are padded.
class RowByRow final : public Reorder {
 public:
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream&, const Tensor& from, Tensor to, Tensor) override {
    const std::int64_t columns = from.shape[-1], rows = from.numel() / columns;
    const DType narrower = size_of(from.dtype) < size_of(to.dtype) ? from.dtype : to.dtype;
    const std::int64_t pitch = row_pitch(to);
    for (std::int64_t r = 0; r < rows; ++r) {
      for_pieces(narrower, pitch, [&](std::int64_t first, std::int64_t n) {
        const std::int64_t here = std::clamp<std::int64_t>(columns - first, 0, n);
        const Reads values(from, r * row_pitch(from) + first, here);
        const Writes copies(to, r * pitch + first, n);
        std::copy_n(static_cast<const float*>(values), here, static_cast<float*>(copies));
        std::fill_n(static_cast<float*>(copies) + here, n - here, 0.0f);
      });
    }
  }
};

bool padded(const Form& form) {
  return form.layout != nullptr && form.layout->row_pitch > 0;
}

}  // namespace

std::unique_ptr<Reorder> CpuKernels::make_reorder(const Shape& shape, const Form& from,
                                                  const Form& to) {
  if (padded(from) || padded(to)) return std::make_unique<RowByRow>();
  if (from.layout == nullptr && to.layout == nullptr) return std::make_unique<Conversion>();
  return with_onednn("make_reorder",
                     [&] { return std::make_unique<OneDnnReorder>(shape, from, to); });
}

}  // namespace peal::cpu
