// The IDX reader on any bytes: an array whose every element can be read, or Error(input).
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "core/data/idx.h"
#include "core/data/records.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const peal::IdxArray array = peal::parse_idx(std::as_bytes(std::span(data, size)), "fuzz");
    const auto bytes = peal::checked_bytes(array.dims, peal::size_of(array.dtype));
    if (!bytes) std::abort();
    unsigned sum = 0;
    for (std::uint64_t i = 0; i < *bytes; ++i) sum += std::to_integer<unsigned>(array.data[i]);
    const volatile unsigned seen = sum;
    static_cast<void>(seen);
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
  return 0;
}
