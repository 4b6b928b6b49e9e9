// Arrays as halves and back, and how far results that went through halves are from others.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/half_arrays.h"

namespace peal {

inline std::vector<std::uint16_t> narrowed(const std::vector<float>& values, DType type) {
  std::vector<std::uint16_t> halves(values.size());
  (type == DType::f16 ? narrow_f16 : narrow_bf16)(values.data(), halves.data(), values.size());
  return halves;
}

inline std::vector<float> widened(const std::vector<std::uint16_t>& halves, DType type) {
  std::vector<float> values(halves.size());
  (type == DType::f16 ? widen_f16 : widen_bf16)(halves.data(), values.data(), halves.size());
  return values;
}

// The root of the mean square of what is between them, beside that of the second.
inline double distance(const std::vector<float>& actual, const std::vector<float>& expected) {
  double apart = 0, all = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    apart += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    all += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(apart / all);
}

}  // namespace peal
