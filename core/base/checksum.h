// Checksums of bytes: xxh64 for files and weights, crc32c for TensorBoard's record format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace peal {

std::uint64_t xxh64(const void* data, std::size_t bytes, std::uint64_t seed = 0);

// xxh64 of bytes that arrive in pieces.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(const void* data, std::size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  std::uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected), as RFC 3720 appendix B.4 checks it.
std::uint32_t crc32c(const void* data, std::size_t bytes);

std::string hex(std::uint64_t value);  // 16 lower-case digits

}  // namespace peal
