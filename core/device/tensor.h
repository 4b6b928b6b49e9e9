// A Tensor is a view: pointer, shape, dtype, device. It owns nothing and copies as a value.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/device/device.h"

namespace peal {

// Up to 6 dimensions, in place, so that views are made without allocation. Rank 0 is a scalar.
class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);
  explicit Shape(const std::vector<std::int64_t>& dims);

  int rank() const { return rank_; }
  // Negative axes count from the end.
  std::int64_t operator[](int axis) const { return dims_[axis < 0 ? axis + rank_ : axis]; }
  std::int64_t& operator[](int axis) { return dims_[axis < 0 ? axis + rank_ : axis]; }
  std::int64_t numel() const;  // 1 for a scalar
  void push_back(std::int64_t dim);
  const std::int64_t* begin() const { return dims_.data(); }
  const std::int64_t* end() const { return dims_.data() + rank_; }
  std::vector<std::int64_t> vector() const { return {begin(), end()}; }

  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

std::string to_string(const Shape& shape);  // "(64, 10)"
std::ostream& operator<<(std::ostream& out, const Shape& shape);

// How elements lie in memory when it is not row-major; made and understood by core/kernels only.
struct Layout;

struct Tensor {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;
  Device device = kCpu;
  const Layout* layout = nullptr;  // nullptr: row-major

  std::int64_t numel() const { return shape.numel(); }
  // Of the row-major form; a Layout may need more (kernels.h, layout_bytes).
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype); }
  bool empty() const { return data == nullptr; }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace peal
