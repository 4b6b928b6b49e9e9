#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"

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

}  // namespace

std::unique_ptr<Reorder> CpuKernels::make_reorder(const Shape& shape, const Form& from,
                                                  const Form& to) {
  return with_onednn("make_reorder",
                     [&] { return std::make_unique<OneDnnReorder>(shape, from, to); });
}

}  // namespace peal::cpu
