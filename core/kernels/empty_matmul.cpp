#include "core/kernels/empty_matmul.h"

namespace peal {
namespace {

class EmptyMatmul final : public Matmul {
 public:
  EmptyMatmul(Kernels& kernels, const MatmulSpec& spec) : kernels_(kernels), spec_(spec) {}

  std::size_t scratch_bytes() const override { return 0; }

  void run(Stream& s, const Operands& of, Tensor) override {
    Tensor c = of.c, bias = of.bias, addend = of.addend;
    c.shape = addend.shape = {spec_.batch, spec_.m, spec_.n};
    bias.shape = {1, 1, spec_.n};
    if (c.numel() == 0) return;
    if (spec_.bias) {
      kernels_.broadcast(s, bias, 1, c);
    } else {
      kernels_.fill(s, c, 0);
    }
    if (spec_.addend) kernels_.accumulate(s, addend, c);
    if (spec_.activation != Activation::none) kernels_.activation(s, spec_.activation, 0, c, c);
  }

 private:
  Kernels& kernels_;
  MatmulSpec spec_;
};

}  // namespace

std::unique_ptr<Matmul> make_empty_matmul(Kernels& kernels, const MatmulSpec& spec) {
  return std::make_unique<EmptyMatmul>(kernels, spec);
}

}  // namespace peal
