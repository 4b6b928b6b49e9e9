#include "core/kernels/separate_activation.h"

namespace peal {
namespace {

MatmulSpec without_activation(MatmulSpec spec) {
  spec.activation = Activation::none;
  spec.keeps_before = spec.slope = false;
  return spec;
}

class SeparateActivation final : public Matmul {
 public:
  SeparateActivation(Kernels& kernels, const MatmulSpec& spec)
      : kernels_(kernels), spec_(spec), product_(kernels.make_matmul(without_activation(spec))) {}

  std::size_t scratch_bytes() const override { return product_->scratch_bytes(); }

  void run(Stream& s, const Operands& of, Tensor scratch) override {
    Operands product = of;
    product.before = {};
    if (spec_.keeps_before) product.c = of.before;
    product_->run(s, product, scratch);
    const Tensor c = shaped(of.c), before = shaped(of.before);
    if (spec_.slope) {
      kernels_.activation_backward(s, spec_.activation, 0, before, {}, c, c);
    } else {
      kernels_.activation(s, spec_.activation, 0, spec_.keeps_before ? before : c, c);
    }
  }

 private:
  Tensor shaped(Tensor x) const {
    x.shape = {spec_.batch, spec_.m, spec_.n};
    return x;
  }

  Kernels& kernels_;
  MatmulSpec spec_;
  std::unique_ptr<Matmul> product_;
};

}  // namespace

std::unique_ptr<Matmul> make_separate_activation(Kernels& kernels, const MatmulSpec& spec) {
  return std::make_unique<SeparateActivation>(kernels, spec);
}

}  // namespace peal
