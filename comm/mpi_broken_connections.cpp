// The module is a shared object that Open MPI loads. Its calls of readv and writev, through which
// all data of established connections go, are led to the two functions below, by the addresses that
// the dynamic linker keeps for it.
#include "comm/mpi_broken_connections.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string_view>

namespace peal {
namespace {

constexpr std::string_view kModule = "/mca_btl_tcp.so";

bool broken(ssize_t bytes) {
  return bytes == 0 || (bytes < 0 && errno != EINTR && errno != EAGAIN && errno != EFAULT);
}

// A broken socket is ready for ever, and Open MPI's loop of events stays with what is ready. So a
// clock that is not set, and never ready, takes its place.
ssize_t silence(int socket) {
  if (const int never = ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); never >= 0) {
    ::dup3(never, socket, O_CLOEXEC);
    ::close(never);
  }
  errno = EAGAIN;
  return -1;
}

ssize_t read_unless_broken(int socket, const iovec* parts, int count) {
  const ssize_t bytes = ::readv(socket, parts, count);
  return broken(bytes) ? silence(socket) : bytes;
}

ssize_t write_unless_broken(int socket, const iovec* parts, int count) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts);
  message.msg_iovlen = static_cast<std::size_t>(count);
  // As writev, but for the SIGPIPE that would end a host program which does not ignore it.
  const ssize_t bytes = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  if (!broken(bytes)) return bytes;
  // What the peer said last, such as why it ends, is read first.
  char next = 0;
  if (::recv(socket, &next, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) return silence(socket);
  errno = EAGAIN;
  return -1;
}

// One loaded shared object.
class Module {
 public:
  explicit Module(const dl_phdr_info& info) : base_(info.dlpi_addr) {
    for (int i = 0; i < info.dlpi_phnum; ++i) {
      const ElfW(Phdr)& part = info.dlpi_phdr[i];
      if (part.p_type == PT_DYNAMIC) read_dynamic(at<ElfW(Dyn)>(part.p_vaddr));
      if (part.p_type != PT_GNU_RELRO) continue;
      locked_begin_ = base_ + part.p_vaddr;
      locked_end_ = locked_begin_ + part.p_memsz;
    }
  }

  // Leads the module's calls of `function` to `target`.
  void redirect(std::string_view function, ssize_t (*target)(int, const iovec*, int)) const {
    for (const auto& [entries, bytes] : {calls_, others_}) {
      for (std::size_t i = 0; i < bytes / sizeof *entries; ++i) {
        const auto symbol = ELF64_R_SYM(entries[i].r_info);
        if (symbol != 0 && function == names_ + symbols_[symbol].st_name) {
          set(base_ + entries[i].r_offset, reinterpret_cast<std::uintptr_t>(target));
        }
      }
    }
  }

 private:
  struct Table {
    const ElfW(Rela) * entries;
    std::size_t bytes;
  };

  template <typename T>
  const T* at(std::uintptr_t address) const {  // some linkers leave addresses as in the file
    return reinterpret_cast<const T*>(address < base_ ? base_ + address : address);
  }

  void read_dynamic(const ElfW(Dyn) * entry) {
    for (; entry->d_tag != DT_NULL; ++entry) {
      const std::uintptr_t value = entry->d_un.d_ptr;
      if (entry->d_tag == DT_SYMTAB) symbols_ = at<ElfW(Sym)>(value);
      if (entry->d_tag == DT_STRTAB) names_ = at<char>(value);
      if (entry->d_tag == DT_JMPREL) calls_.entries = at<ElfW(Rela)>(value);
      if (entry->d_tag == DT_PLTRELSZ) calls_.bytes = value;
      if (entry->d_tag == DT_RELA) others_.entries = at<ElfW(Rela)>(value);
      if (entry->d_tag == DT_RELASZ) others_.bytes = value;
    }
  }

  void set(std::uintptr_t address, std::uintptr_t value) const {
    auto* const slot = reinterpret_cast<std::uintptr_t*>(address);
    const bool locked = address >= locked_begin_ && address < locked_end_;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    void* const begin = reinterpret_cast<void*>(address / page * page);
    if (locked && ::mprotect(begin, page, PROT_READ | PROT_WRITE) != 0) return;
    std::atomic_ref(*slot).store(value, std::memory_order_relaxed);
    if (locked) ::mprotect(begin, page, PROT_READ);
  }

  std::uintptr_t base_;
  std::uintptr_t locked_begin_ = 0, locked_end_ = 0;  // read-only once it is loaded
  const ElfW(Sym) * symbols_ = nullptr;
  const char* names_ = nullptr;
  Table calls_{}, others_{};
};

}  // namespace

void wait_on_broken_connections() {
  const auto look = [](dl_phdr_info* info, std::size_t, void*) {
    if (!std::string_view(info->dlpi_name).ends_with(kModule)) return 0;
    const Module module(*info);
    module.redirect("readv", read_unless_broken);
    module.redirect("writev", write_unless_broken);
    return 1;
  };
  ::dl_iterate_phdr(look, nullptr);
}

}  // namespace peal
