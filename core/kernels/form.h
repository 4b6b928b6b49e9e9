#pragma once

#include "core/device/tensor.h"

namespace peal {

// In which order and as what a tensor's elements lie. A layout belongs to one type.
struct Form {
  const Layout* layout = nullptr;  // nullptr: row-major
  DType dtype = DType::f32;
  friend bool operator==(const Form&, const Form&) = default;
};

}  // namespace peal
