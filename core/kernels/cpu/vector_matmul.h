// A Matmul of one row, such as a token's.
#pragma once

#include "core/kernels/kernels.h"

namespace peal::cpu {

// c (n) = a (k) * b + bias (n) + addend (n), b (k, n) or (n, k); in f32, without scratch memory.
class VectorMatmul final : public Matmul {
 public:
  static bool supports(const MatmulSpec& spec) {
    return spec.batch == 1 && spec.m == 1 && spec.activation == Activation::none &&
           spec.operands == DType::f32 && spec.result == DType::f32;
  }
  explicit VectorMatmul(const MatmulSpec& spec) : spec_(spec) {}

  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Operands& of, Tensor scratch) override;

 private:
  MatmulSpec spec_;
};

}  // namespace peal::cpu
