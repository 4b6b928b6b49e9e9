// The IDX format in memory (MNIST's; http://yann.lecun.com/exdb/mnist describes it): 00 00, a type,
// a rank, one big-endian u32 a dimension, then the elements, big-endian and row-major.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"

namespace peal {

struct IdxArray {
  std::vector<std::int64_t> dims;  // 1 to 7, none of them 0
  DType dtype = DType::u8;         // u8, or f32 that i8, i16, i32, f32 and f64 become
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;  // nullptr: `data` points into the file
};

// `file` is plain or gzip. Takes no more memory than its header announces, and none when the file
// cannot hold that much. Throws Error(input) with `where`, the offset, what was found and what is
// allowed.
IdxArray parse_idx(std::span<const std::byte> file, const std::string& where);

}  // namespace peal
