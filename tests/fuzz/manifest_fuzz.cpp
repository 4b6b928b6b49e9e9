// Any bytes are a manifest or an Error(input), with and without the checksum that they need to
// get past the first test.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/state/manifest.h"

namespace {

void decode(const std::string& bytes) {
  try {
    const peal::state::Manifest manifest = peal::state::decode_manifest(bytes, "fuzz");
    const std::string again = peal::state::encode_manifest(manifest);
    if (peal::state::encode_manifest(peal::state::decode_manifest(again, "again")) != again) {
      std::abort();
    }
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || error.where() != "fuzz") std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  decode(bytes);
  const std::uint64_t checksum = peal::xxh64(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof checksum);
  decode(bytes);
  return 0;
}
