// The CIFAR-10 reader on any bytes: as many whole records as labels, each below ten, or
// Error(input).
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "core/data/cifar.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  peal::CifarRecords records;
  try {
    peal::parse_cifar(std::as_bytes(std::span(data, size)), "fuzz", records);
    if (records.labels.empty()) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
  if (records.pixels.size() != records.labels.size() * peal::kCifarPixels) std::abort();
  for (const float label : records.labels)
    if (!(label >= 0 && label < 10)) std::abort();
  return 0;
}
