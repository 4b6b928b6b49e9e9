// A state in node-shared memory of any bytes is passed over, or its tensors lie in it. The first
// byte chooses: 'f', a whole file as it is; else a description, from which a file with the right
// checksums is made: u16 bytes of the index, u16 bytes of a slot, the index, the slot.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/state/manifest.pb.h"
#include "core/state/memory_state.h"

namespace {

constexpr std::size_t kPage = 4096;

std::size_t pages(std::size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

void put(std::vector<std::byte>& file, std::size_t at, std::uint64_t value) {
  std::memcpy(file.data() + at, &value, sizeof value);
}

// The checksum of a slot whose tensors all lie in it; 0 for others, which no reader may get to.
std::uint64_t hash_of(const peal::MemoryStateIndex& index, const std::byte* slot,
                      std::uint64_t slot_bytes) {
  std::uint64_t hash = 0;
  for (const auto& entry : index.tensor()) {
    if (entry.dtype() < 0 || entry.dtype() > static_cast<int>(peal::DType::boolean)) return 0;
    std::uint64_t bytes = peal::size_of(static_cast<peal::DType>(entry.dtype()));
    for (const std::int64_t dim : entry.dim()) {
      if (dim < 0 || dim > 1 << 20 || bytes > 1 << 20) return 0;
      bytes *= static_cast<std::uint64_t>(dim);
    }
    if (entry.offset() > slot_bytes || bytes > slot_bytes - entry.offset()) return 0;
    if (bytes > 0) hash = peal::xxh64(slot + entry.offset(), bytes, hash);
  }
  return hash;
}

std::vector<std::byte> made_good(std::span<const std::byte> given) {
  std::uint16_t sizes[2] = {};
  if (given.size() < sizeof sizes) return {};
  std::memcpy(sizes, given.data(), sizeof sizes);
  given = given.subspan(sizeof sizes);
  const std::size_t index_bytes = std::min<std::size_t>(sizes[0], given.size());
  const std::size_t slot_bytes = sizes[1], first = kPage + pages(index_bytes);
  std::vector<std::byte> file(first + 2 * slot_bytes);
  std::copy_n(given.begin(), index_bytes, file.begin() + kPage);
  given = given.subspan(index_bytes);
  std::copy_n(given.begin(), std::min(given.size(), slot_bytes),
              file.begin() + static_cast<std::ptrdiff_t>(first));
  put(file, 0, 0x314d454d4c414550);
  put(file, 8, index_bytes);
  put(file, 16, peal::xxh64(file.data() + kPage, index_bytes));
  put(file, 24, slot_bytes);
  put(file, 32, peal::xxh64(file.data(), 32));
  peal::MemoryStateIndex index;
  if (index.ParseFromArray(file.data() + kPage, static_cast<int>(index_bytes))) {
    put(file, 72, hash_of(index, file.data() + first, slot_bytes));
  }
  std::uint64_t index_hash = 0;
  std::memcpy(&index_hash, file.data() + 16, sizeof index_hash);
  put(file, 80, peal::xxh64(file.data() + 56, 24, index_hash) | 1);
  return file;
}

// By the way that a rank takes.
void open(const std::vector<std::byte>& bytes) {
  const int file = ::memfd_create("fuzz", MFD_CLOEXEC);
  if (file < 0) std::abort();
  const auto written = ::write(file, bytes.data(), bytes.size());
  if (written != static_cast<ssize_t>(bytes.size())) std::abort();
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  if (const auto state = peal::MemoryState::open(path, [](const std::string&) {})) {
    const auto payload = state->payload();
    for (const auto* tensors : {&state->weights(), &state->optimizer(), &state->compression()}) {
      for (const peal::NamedTensor& t : *tensors) {
        const auto* begin = t.tensor.as<const std::byte>();
        if (begin < payload.data() || begin > payload.data() + payload.size()) std::abort();
        const auto room = static_cast<std::size_t>(payload.data() + payload.size() - begin);
        if (t.tensor.bytes() > room) std::abort();
      }
    }
    // What another host is sent reads as the same.
    if (!peal::MemoryState::read(state->front(), payload, "fuzz")) std::abort();
  }
  ::close(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto rest = std::as_bytes(std::span(data + 1, size - 1));
  open(data[0] == 'f' ? std::vector<std::byte>(rest.begin(), rest.end()) : made_good(rest));
  return 0;
}
