#include "launcher/rank_line.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <optional>
#include <thread>

#include "launcher/supervised.h"

namespace peal {
namespace {

constexpr auto kNameTaken = std::chrono::seconds(2);  // by an agent that is just being ended

// A name without a file: nothing is left behind.
struct Address {
  explicit Address(const std::string& token) {
    const std::string name = "peal-" + token;
    file.sun_family = AF_UNIX;
    std::memcpy(file.sun_path + 1, name.data(), std::min(name.size(), sizeof file.sun_path - 1));
    bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                   std::min(name.size(), sizeof file.sun_path - 1));
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&file); }
  sockaddr_un file{};
  socklen_t bytes = 0;
};

int open_socket() {
  return ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

bool is_of_this_user(int socket) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
         peer.uid == ::geteuid();
}

// Nothing while the rank lives.
std::optional<int> end_of(int socket) {
  int code = 0;
  const ssize_t n = ::recv(socket, &code, sizeof code, MSG_DONTWAIT);
  if (n == sizeof code) return code;
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  return RankLines::kNoWord;
}

}  // namespace

RankLine::RankLine() {
  const std::optional<Supervised> by = supervised();
  if (!by) return;
  const Address address(by->token);
  socket_ = open_socket();
  if (socket_ < 0 || ::connect(socket_, address.get(), address.bytes) == 0) return;
  ::close(socket_);
  socket_ = -1;
}

void RankLine::say_end(int code) const {
  if (socket_ >= 0 && ::send(socket_, &code, sizeof code, MSG_NOSIGNAL) < 0) return;
}

RankLines::RankLines(const std::string& token) : listening_(open_socket()) {
  const Address address(token);
  const auto deadline = std::chrono::steady_clock::now() + kNameTaken;
  while (::bind(listening_, address.get(), address.bytes) != 0) {
    if (errno != EADDRINUSE || std::chrono::steady_clock::now() > deadline) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ::listen(listening_, SOMAXCONN);
}

RankLines::~RankLines() {
  forget_ranks();
  ::close(listening_);
}

void RankLines::add_files(std::vector<pollfd>& files) const {
  files.push_back({.fd = listening_, .events = POLLIN, .revents = 0});
  for (const int rank : ranks_) files.push_back({.fd = rank, .events = POLLIN, .revents = 0});
}

void RankLines::accept_ranks() {
  int rank = -1;
  while ((rank = ::accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
    if (is_of_this_user(rank)) {
      ranks_.push_back(rank);
    } else {
      ::close(rank);
    }
  }
}

std::vector<int> RankLines::take_ends() {
  accept_ranks();
  std::vector<int> ends;
  std::erase_if(ranks_, [&](int rank) {
    const std::optional<int> end = end_of(rank);
    if (!end) return false;
    ::close(rank);
    if (*end != 0) ends.push_back(*end);
    return true;
  });
  return ends;
}

void RankLines::forget_ranks() {
  accept_ranks();
  for (const int rank : ranks_) ::close(rank);
  ranks_.clear();
}

}  // namespace peal
