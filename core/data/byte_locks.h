// Locks on single bytes of a file, between processes and between whoever opened it in one process.
// They go when their owner ends, however it ends.
#pragma once

#include <cstdint>
#include <filesystem>

namespace peal {

class ByteLocks {
 public:
  // Makes the file where it is missing; its bytes do not matter. Throws Error(input).
  explicit ByteLocks(const std::filesystem::path& path);
  ~ByteLocks();
  ByteLocks(const ByteLocks&) = delete;
  ByteLocks& operator=(const ByteLocks&) = delete;

  // At once: false when another holds a lock that this one cannot stand beside. A lock that this
  // object holds on the byte already becomes the new one.
  bool try_shared(std::uint64_t byte);
  bool try_exclusive(std::uint64_t byte);
  void unlock(std::uint64_t byte);

 private:
  bool set(short kind, std::uint64_t byte);

  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace peal
