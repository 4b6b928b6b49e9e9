#include "core/kernels/separate_sums.h"

namespace peal {
namespace {

MatmulSpec without_sums(MatmulSpec spec) {
  spec.sums = OperandSums::none;
  return spec;
}

class SeparateSums final : public Matmul {
 public:
  SeparateSums(Kernels& kernels, const MatmulSpec& spec)
      : kernels_(kernels), spec_(spec), product_(kernels.make_matmul(without_sums(spec))) {}

  std::size_t scratch_bytes() const override { return product_->scratch_bytes(); }

  void run(Stream& s, const Operands& of, Tensor scratch) override {
    product_->run(s, of, scratch);
    const bool of_a = spec_.sums == OperandSums::a;
    const std::int64_t kept = of_a ? spec_.m : spec_.n;
    const bool rows_are_terms = of_a ? spec_.transpose_a : !spec_.transpose_b;
    Tensor x = of_a ? of.a : of.b, sums = of.sums;
    x.shape = rows_are_terms ? Shape{spec_.k, kept} : Shape{kept, spec_.k};
    sums.shape = rows_are_terms ? Shape{1, kept} : Shape{kept, 1};
    kernels_.reduce_sum(s, x, 1, sums);
  }

 private:
  Kernels& kernels_;
  MatmulSpec spec_;
  std::unique_ptr<Matmul> product_;
};

}  // namespace

std::unique_ptr<Matmul> make_separate_sums(Kernels& kernels, const MatmulSpec& spec) {
  return std::make_unique<SeparateSums>(kernels, spec);
}

}  // namespace peal
