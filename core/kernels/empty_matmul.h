// A product whose sums have no terms, or that has no elements: libraries refuse some of them.
#pragma once

#include <memory>

#include "core/kernels/kernels.h"

namespace peal {

inline bool is_empty(const MatmulSpec& spec) {
  return spec.batch * spec.m * spec.n * spec.k == 0;
}
// activation is none or relu.
std::unique_ptr<Matmul> make_empty_matmul(Kernels& kernels, const MatmulSpec& spec);

}  // namespace peal
