// The module is a shared object that Open MPI loads. Its calls of readv and writev, through which
// all data of established connections go, and of close, are led to the functions below, by the
// addresses that the dynamic linker keeps for it.
#include "comm/mpi_broken_connections.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace peal {
namespace {

constexpr std::string_view kModule = "/mca_btl_tcp.so";

// Where the sockets lead to, noted while they work: one that was reset does not say it any more.
struct Peer {
  enum State { unknown, being_noted, noted };
  std::atomic<int> state{unknown};
  NetAddress address{};
};
std::array<Peer, 1 << 14> peers;  // by socket; larger numbers are not noted

Peer* peer_of(int socket) {
  const auto place = static_cast<std::size_t>(socket);
  return place < peers.size() ? &peers[place] : nullptr;
}

void note_peer(int socket) {
  Peer* const peer = peer_of(socket);
  if (peer == nullptr || peer->state.load(std::memory_order_relaxed) != Peer::unknown) return;
  int free = Peer::unknown;
  if (!peer->state.compare_exchange_strong(free, Peer::being_noted)) return;
  sockaddr_storage found{};
  socklen_t length = sizeof found;
  auto* const address = reinterpret_cast<sockaddr*>(&found);
  const auto known = ::getpeername(socket, address, &length) == 0 ? net_address(*address)
                                                                  : std::optional<NetAddress>();
  if (known) peer->address = *known;
  peer->state.store(known ? Peer::noted : Peer::unknown, std::memory_order_release);
}

// Those whose connections broke.
struct Broken {
  std::atomic<bool> there{false};
  NetAddress address{};
};
std::array<Broken, kMostBroken> lost;
std::atomic<std::size_t> lost_count{0};

void note_broken(int socket) {
  Peer* const peer = peer_of(socket);
  if (peer == nullptr) return;
  int noted = Peer::noted;
  if (!peer->state.compare_exchange_strong(noted, Peer::being_noted)) return;
  const NetAddress address = peer->address;
  peer->state.store(Peer::unknown, std::memory_order_release);
  const std::size_t place = lost_count.fetch_add(1);
  if (place >= lost.size()) return;
  lost[place].address = address;
  lost[place].there.store(true, std::memory_order_release);
}

bool broken(ssize_t bytes) {
  return bytes == 0 || (bytes < 0 && errno != EINTR && errno != EAGAIN && errno != EFAULT);
}

// A broken socket is ready for ever, and Open MPI's loop of events stays with what is ready. So a
// clock that is not set, and never ready, takes its place.
ssize_t silence(int socket) {
  note_broken(socket);
  if (const int never = ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); never >= 0) {
    ::dup3(never, socket, O_CLOEXEC);
    ::close(never);
  }
  errno = EAGAIN;
  return -1;
}

ssize_t read_unless_broken(int socket, const iovec* parts, int count) {
  note_peer(socket);
  const ssize_t bytes = ::readv(socket, parts, count);
  return broken(bytes) ? silence(socket) : bytes;
}

ssize_t write_unless_broken(int socket, const iovec* parts, int count) {
  note_peer(socket);
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

// By Open MPI itself: the number may come back for another connection.
int close_and_forget(int file) {
  if (Peer* const peer = peer_of(file)) peer->state.store(Peer::unknown);
  return ::close(file);
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
  template <typename Function>
  void redirect(std::string_view function, Function* target) const {
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

std::optional<NetAddress> net_address(const sockaddr& address) {
  NetAddress result{};
  if (address.sa_family == AF_INET6) {
    const auto& six = reinterpret_cast<const sockaddr_in6&>(address);
    std::memcpy(result.data(), &six.sin6_addr, result.size());
    return result;
  }
  if (address.sa_family != AF_INET) return std::nullopt;
  const auto& four = reinterpret_cast<const sockaddr_in&>(address);
  result[10] = result[11] = 0xff;
  std::memcpy(result.data() + 12, &four.sin_addr, 4);
  return result;
}

const NetAddress* broken_connection(int i) {
  const Broken* const one = i < kMostBroken ? &lost[static_cast<std::size_t>(i)] : nullptr;
  return one != nullptr && one->there.load(std::memory_order_acquire) ? &one->address : nullptr;
}

void wait_on_broken_connections() {
  const auto look = [](dl_phdr_info* info, std::size_t, void*) {
    if (!std::string_view(info->dlpi_name).ends_with(kModule)) return 0;
    const Module module(*info);
    module.redirect("readv", read_unless_broken);
    module.redirect("writev", write_unless_broken);
    module.redirect("close", close_and_forget);
    return 1;
  };
  ::dl_iterate_phdr(look, nullptr);
}

}  // namespace peal
