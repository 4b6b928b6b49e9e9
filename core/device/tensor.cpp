#include "core/device/tensor.h"

#include <algorithm>

#include "core/base/error.h"

namespace peal {

Shape::Shape(std::initializer_list<std::int64_t> dims) {
  for (const std::int64_t dim : dims) push_back(dim);
}

Shape::Shape(const std::vector<std::int64_t>& dims) {
  for (const std::int64_t dim : dims) push_back(dim);
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t dim : *this) n *= dim;
  return n;
}

void Shape::push_back(std::int64_t dim) {
  if (rank_ == kMaxRank) fail_input("shape", "more than ", kMaxRank, " dimensions");
  if (dim < 0) fail_input("shape", "dimension ", dim, " is negative");
  dims_[static_cast<std::size_t>(rank_++)] = dim;
}

bool operator==(const Shape& a, const Shape& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (int i = 0; i < shape.rank(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + ")";
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << to_string(shape);
}

}  // namespace peal
