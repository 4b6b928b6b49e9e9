// CIFAR-10's binary format in memory (https://www.cs.toronto.edu/~kriz/cifar.html): records of one
// byte for the label, then 1024 bytes each of red, green and blue, row by row.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace peal {

inline constexpr std::int64_t kCifarSide = 32, kCifarClasses = 10;
inline constexpr std::size_t kCifarPixels = 3 * kCifarSide * kCifarSide;

struct CifarRecords {
  std::vector<std::byte> pixels;  // (labels.size(), 3, 32, 32)
  std::vector<float> labels;
};

// Adds the records of `file`, plain or gzip, to `records`. Takes memory as it finds records. Throws
// Error(input) with `where`, the record, what was found and what is allowed.
void parse_cifar(std::span<const std::byte> file, const std::string& where, CifarRecords& records);

}  // namespace peal
