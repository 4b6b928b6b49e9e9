// Operands of products for the tests that compare them with loops in f64.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/halves.h"
#include "tests/kernels/direct_support.h"

namespace peal::direct {

// Values as they are stored, in memory of that type.
struct StoredValues {
  StoredValues(std::int64_t size, DType as, std::uint64_t seed) : type(as) {
    floats = normals(static_cast<std::size_t>(size), seed);
    if (type == DType::f32) return;
    halves = narrowed(floats, type);
    floats = widened(halves, type);
  }
  Tensor tensor(const Shape& shape) {
    if (type == DType::f32) return view(floats, shape);
    return {.data = halves.data(), .shape = shape, .dtype = type};
  }
  std::vector<float> values() const { return type == DType::f32 ? floats : widened(halves, type); }
  DType type;
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
};

// Those that the device under test multiplies.
inline std::vector<DType> multiplied_types() {
  std::vector<DType> all = {DType::f32};
  for (const Precision precision : {Precision::bf16, Precision::f16})
    if (kernels_under_test().has_precision(precision)) all.push_back(stored_type(precision));
  return all;
}

}  // namespace peal::direct
