// Loops are written for f32. A call whose tensors are stored as bf16 goes through them in pieces
// that stay in the L1 cache: widened, computed and rounded. f32 tensors are one piece, in place.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/half_arrays.h"
#include "core/device/tensor.h"

namespace peal::cpu {

constexpr std::int64_t kPieceElements = 2048;
constexpr std::int64_t kRoom = 4096;  // of one who cuts its own pieces

// f(first, n) for all pieces of n elements of this type.
template <class F>
void for_pieces(DType dtype, std::int64_t n, F f) {
  const std::int64_t most = dtype == DType::f32 ? std::max<std::int64_t>(n, 1) : kPieceElements;
  for (std::int64_t first = 0; first < n; first += most) f(first, std::min(most, n - first));
}

// What a loop reads: elements first..first + n of x, at most kRoom unless x is f32. Of an empty
// tensor nullptr.
class Reads {
 public:
  Reads(const Tensor& x, std::int64_t first, std::int64_t n) {
    if (x.empty()) return;
    if (x.dtype == DType::f32) {
      data_ = x.as<float>() + first;
      return;
    }
    widen_bf16(x.as<std::uint16_t>() + first, room_, static_cast<std::size_t>(n));
    data_ = room_;
  }
  Reads(const Reads&) = delete;
  Reads& operator=(const Reads&) = delete;
  operator const float*() const { return data_; }

 private:
  const float* data_ = nullptr;
  float room_[kRoom];
};

// What it writes: rounded at the end of the scope. keep: it reads them, too.
class Writes {
 public:
  Writes(const Tensor& y, std::int64_t first, std::int64_t n, bool keep = false) : n_(n) {
    if (y.empty()) return;
    if (y.dtype == DType::f32) {
      data_ = y.as<float>() + first;
      return;
    }
    to_ = y.as<std::uint16_t>() + first;
    if (keep) widen_bf16(to_, room_, static_cast<std::size_t>(n));
    data_ = room_;
  }
  ~Writes() {
    if (to_ != nullptr) narrow_bf16(room_, to_, static_cast<std::size_t>(n_));
  }
  Writes(const Writes&) = delete;
  Writes& operator=(const Writes&) = delete;
  operator float*() const { return data_; }

 private:
  float* data_ = nullptr;
  std::uint16_t* to_ = nullptr;
  std::int64_t n_;
  float room_[kRoom];
};

}  // namespace peal::cpu
