#include "comm/process_space.h"

#include <fcntl.h>
#include <linux/mman.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/base/error.h"

namespace peal {
namespace {

// What a peer that reads this process finds, and nobody who reads another by mistake.
constexpr std::uint64_t kProbe = 0x7065616c2d636d61;
const std::uint64_t probe = kProbe;

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t mapped_bytes(std::size_t bytes) {
  return bytes < kHugePage ? bytes : (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

// At a multiple of the huge page from one huge page on: address space is taken for one more, and
// what lies around the file is given back.
std::byte* map_file(int fd, std::size_t bytes) {
  const std::size_t more = bytes < kHugePage ? 0 : kHugePage;
  void* space = ::mmap(nullptr, bytes + more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (space == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(space);
  const std::size_t head = more == 0 ? 0 : -reinterpret_cast<std::uintptr_t>(space) % kHugePage;
  std::byte* data = begin + head;
  if (head > 0) ::munmap(begin, head);
  if (more > head) ::munmap(data + bytes, more - head);
  if (::mmap(data, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    ::munmap(data, bytes);
    return nullptr;
  }
  return data;
}

// Large arrays are streamed through whole, and under 4 KiB pages that costs more than the data. The
// kernel may refuse; MADV_COLLAPSE (Linux 6.1) needs no setting of the system's.
void ask_for_huge_pages(std::byte* data, std::size_t bytes) {
  if (bytes < kHugePage) return;
  ::madvise(data, bytes, MADV_HUGEPAGE);
  ::madvise(data, bytes, MADV_COLLAPSE);
}

}  // namespace

SharedMapping::~SharedMapping() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
  close_file();
}

SharedMapping::SharedMapping(SharedMapping&& other) noexcept {
  *this = std::move(other);
}

SharedMapping& SharedMapping::operator=(SharedMapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(fd_, other.fd_);
  return *this;
}

SharedMapping SharedMapping::create(std::size_t bytes) {
  SharedMapping mapping;
  mapping.bytes_ = bytes = mapped_bytes(bytes);
  mapping.fd_ = ::memfd_create("peal", MFD_CLOEXEC);
  // Reserves the memory now, so that a full host is an error here and no SIGBUS later.
  if (mapping.fd_ >= 0 && ::posix_fallocate(mapping.fd_, 0, static_cast<off_t>(bytes)) == 0) {
    mapping.data_ = map_file(mapping.fd_, bytes);
    if (mapping.data_ != nullptr) ask_for_huge_pages(mapping.data_, bytes);
  }
  return mapping;
}

SharedMapping SharedMapping::open(const Address& address, std::size_t bytes) {
  SharedMapping mapping;
  mapping.bytes_ = bytes = mapped_bytes(bytes);
  if (address.fd < 0) return mapping;
  const std::string path = cat("/proc/", address.process, "/fd/", address.fd);
  mapping.fd_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (mapping.fd_ >= 0) mapping.data_ = map_file(mapping.fd_, bytes);
  mapping.close_file();
  return mapping;
}

SharedMapping::Address SharedMapping::address() const {
  return {::getpid(), empty() ? -1 : fd_};
}

void SharedMapping::close_file() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

ProcessSpace::ProcessSpace(SharedMapping control, int ranks, int rank, bool construct)
    : control_(std::move(control)), rank_(rank) {
  attach(control_.data(), ranks, construct);
  state(rank).process = ::getpid();
  state(rank).probe = reinterpret_cast<std::uint64_t>(&probe);
}

std::int64_t ProcessSpace::add(std::vector<SharedMapping> of_ranks, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  regions_[next_] = {std::move(of_ranks), bytes};
  return next_++;
}

void ProcessSpace::remove(std::int64_t region) {
  const std::lock_guard lock(mutex_);
  regions_.erase(region);
}

bool ProcessSpace::locate(const std::byte* data, std::size_t bytes, Location& location) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, region] : regions_) {
    const std::byte* mine = region.of_ranks[static_cast<std::size_t>(rank_)].data();
    if (data < mine || data + bytes > mine + region.bytes) continue;
    location = {id, static_cast<std::uint64_t>(data - mine)};
    return true;
  }
  return bytes == 0;
}

std::byte* ProcessSpace::resolve(int rank, const Location& location) const {
  const std::lock_guard lock(mutex_);
  const auto found = regions_.find(location.region);
  if (found == regions_.end()) {
    fail_internal(cat("rank ", rank_), "rank ", rank, " uses shared allocation ", location.region,
                  ", which this rank has released");
  }
  return found->second.of_ranks[static_cast<std::size_t>(rank)].data() + location.offset;
}

bool ProcessSpace::can_fetch() const {
  for (int r = 0; r < ranks(); ++r) {
    if (r == rank_) continue;
    std::uint64_t found = 0;
    const std::uint64_t at = state(r).probe.load();
    if (!fetch(r, reinterpret_cast<std::byte*>(&found), reinterpret_cast<const std::byte*>(at),
               sizeof found) ||
        found != kProbe) {
      return false;
    }
  }
  return true;
}

bool ProcessSpace::fetch(int rank, std::byte* to, const std::byte* from, std::size_t bytes) const {
  const auto process = static_cast<pid_t>(state(rank).process.load());
  while (bytes > 0) {
    const iovec mine{to, bytes}, theirs{const_cast<std::byte*>(from), bytes};
    const ssize_t read = ::process_vm_readv(process, &mine, 1, &theirs, 1, 0);
    if (read <= 0) return false;
    to += read;
    from += read;
    bytes -= static_cast<std::size_t>(read);
  }
  return true;
}

bool ProcessSpace::alive(int rank) const {
  const auto process = static_cast<pid_t>(state(rank).process.load());
  return process == 0 || ::kill(process, 0) == 0 || errno != ESRCH;
}

}  // namespace peal
