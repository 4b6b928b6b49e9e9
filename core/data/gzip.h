// Reads gzip from memory, piece by piece.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace peal {

bool is_gzip(std::span<const std::byte> bytes);  // by its first two bytes, 1f 8b

// Deflate turns one byte into at most 1032 (zlib's technical notes): a file that announces more
// than that is refused before memory is taken.
inline constexpr std::uint64_t kMostInflation = 1032;

// RFC 1952, one member or several. The compressed bytes must outlive the reader.
class GzipReader {
 public:
  GzipReader(std::span<const std::byte> file, std::string where);
  ~GzipReader();
  GzipReader(GzipReader&&) noexcept;

  // Fills `out` and returns `bytes`, or fewer at the end. Throws Error(input) that names `where`
  // and the offset in the compressed file when it is corrupt, ends early, or has other bytes
  // behind its end.
  std::size_t read(void* out, std::size_t bytes);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Fills the memory and returns how many bytes there were: fewer only at the end.
using ReadBytes = std::function<std::size_t(void*, std::size_t)>;

// Reads `file` as it is, or inflated when it is gzip. `file` must outlive the function.
ReadBytes byte_reader(std::span<const std::byte> file, const std::string& where);

}  // namespace peal
