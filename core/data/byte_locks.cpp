#include "core/data/byte_locks.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"

namespace peal {

ByteLocks::ByteLocks(const std::filesystem::path& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_input(path.string(), "cannot open: ", std::strerror(errno));
}

ByteLocks::~ByteLocks() {
  ::close(fd_);
}

// Locks of the open file, not of the process: other threads that opened it are others.
bool ByteLocks::set(short kind, std::uint64_t byte) {
  struct flock lock {};
  lock.l_type = kind;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(byte);
  lock.l_len = 1;
  while (::fcntl(fd_, F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) return false;
    if (errno != EINTR) fail_input(path_.string(), "cannot lock: ", std::strerror(errno));
  }
  return true;
}

bool ByteLocks::try_shared(std::uint64_t byte) {
  return set(F_RDLCK, byte);
}

bool ByteLocks::try_exclusive(std::uint64_t byte) {
  return set(F_WRLCK, byte);
}

void ByteLocks::unlock(std::uint64_t byte) {
  set(F_UNLCK, byte);
}

}  // namespace peal
