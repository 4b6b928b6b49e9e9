// Records that lie one behind another in memory: what every reader of whole files ends in.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/data/dataset.h"

namespace peal {

struct Records {
  std::string name;  // Dataset::name()
  Shape shape;       // of one record
  DType dtype = DType::u8;
  const std::byte* data = nullptr;    // (labels.size(), shape...)
  std::vector<float> labels;          // one a record
  std::shared_ptr<const void> owner;  // keeps `data` alive
};

std::unique_ptr<Dataset> array_dataset(Records records);

// The product of `dims` and `element_bytes`; nothing when it does not fit in 63 bits. A file's own
// numbers are multiplied by this alone.
std::optional<std::uint64_t> checked_bytes(std::span<const std::int64_t> dims,
                                           std::uint64_t element_bytes);

}  // namespace peal
