// Reads tar archives from memory, member by member: ustar, pax and GNU's long names, plain or gzip.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace peal {

struct TarMember {
  std::string name;          // without "./" in front
  std::uint64_t offset = 0;  // of its bytes in the archive, inflated
  std::uint64_t bytes = 0;
};

// Throws Error(input) that names the archive, and the offset or the member, for what is truncated
// or corrupt (header checksums are compared), for links, devices and sparse files, for absolute
// names and such with "..", and for bytes behind the end mark (two blocks of zeros), without which
// an archive is truncated. `file` must outlive the reader.
class TarReader {
 public:
  TarReader(std::span<const std::byte> file, std::string where);
  ~TarReader();

  // The next regular file; folders are left out. False at the end.
  bool next(TarMember& member);
  // The bytes of the member that next() gave, whole, once.
  void read(std::byte* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
