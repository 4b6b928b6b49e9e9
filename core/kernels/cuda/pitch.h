// Rows of a matrix of halves with a gap behind each, so that all of them begin at 16 bytes.
#pragma once

#include <cstdint>

#include "core/device/stream.h"

namespace peal::cuda {

// `rows` rows of `columns` elements of two bytes, which lie from_pitch and to_pitch elements apart.
// What lies between them is left as it is.
void copy_rows(Stream& s, const void* from, std::int64_t from_pitch, void* to,
               std::int64_t to_pitch, std::int64_t rows, std::int64_t columns);

}  // namespace peal::cuda
