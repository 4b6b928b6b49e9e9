#include "core/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/base/error.h"

namespace peal {
namespace {

[[noreturn]] void fail_errno(const std::filesystem::path& path, const char* action) {
  fail_input(path.string(), action, ": ", std::strerror(errno));
}

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) : fd_(::open(path.c_str(), flags)) {
    if (fd_ < 0) fail_errno(path, "cannot open");
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

struct stat regular_file(const std::filesystem::path& path, int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) fail_errno(path, "cannot stat");
  if (!S_ISREG(info.st_mode)) fail_input(path.string(), "is not a regular file");
  return info;
}

void write_all(const std::filesystem::path& path, int fd, const char* data, std::size_t bytes,
               std::uint64_t offset) {
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path, "cannot write");
    data += n;
    bytes -= static_cast<std::size_t>(n);
    offset += static_cast<std::uint64_t>(n);
  }
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  const Descriptor file(path, O_RDONLY | O_CLOEXEC);
  std::string bytes(static_cast<std::size_t>(regular_file(path, file.get()).st_size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path, "cannot read");
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

void sync_folder(const std::filesystem::path& folder) {
  const Descriptor handle(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  // Some network file systems refuse to sync a folder; the rename is then as safe as they make it.
  if (::fsync(handle.get()) != 0 && errno != EINVAL) fail_errno(folder, "cannot sync");
}

void make_folders(const std::filesystem::path& folder) {
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) fail_input(folder.string(), "cannot create the folder: ", code.message());
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  FileWriter writer(path);
  writer.write(bytes);
  writer.commit();
}

FileWriter::FileWriter(std::filesystem::path path)
    : path_(std::move(path)), temporary_(path_.string() + ".tmp") {
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno(temporary_, "cannot create");
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void FileWriter::write(const void* data, std::size_t bytes) {
  write_at(position_, data, bytes);
  position_ += bytes;
}

void FileWriter::write_at(std::uint64_t offset, const void* data, std::size_t bytes) {
  write_all(temporary_, fd_, static_cast<const char*>(data), bytes, offset);
}

void FileWriter::commit() {
  if (::fsync(fd_) != 0) fail_errno(temporary_, "cannot sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_errno(path_, "cannot rename to");
  ::close(std::exchange(fd_, -1));
  sync_folder(path_.parent_path());
}

MappedFile::MappedFile(const std::filesystem::path& path, Owner owner) {
  // Another user's may be a pipe, of which nobody ever writes the other end.
  const int wait = owner == Owner::this_user ? O_NONBLOCK : 0;
  const Descriptor file(path, O_RDONLY | O_CLOEXEC | wait);
  const struct stat info = regular_file(path, file.get());
  if (owner == Owner::this_user && info.st_uid != ::geteuid()) {
    fail_input(path.string(), "belongs to user ", info.st_uid, ", not to ", ::geteuid());
  }
  size_ = static_cast<std::size_t>(info.st_size);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (map == MAP_FAILED) fail_errno(path, "cannot map");
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

}  // namespace peal
