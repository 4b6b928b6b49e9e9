#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "core/base/error.h"
#include "launcher/cli.h"
#include "launcher/doctor_network.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kPiece = std::int64_t{1} << 20;  // bytes
constexpr int kMostPieces = 64, kShortMessages = 20;
constexpr double kPairSeconds = 0.15;
constexpr int kMostRounds = 63;  // with more than 64 hosts each meets 63 others
constexpr std::size_t kName = 256;
constexpr double kSlowLink = 0.7;  // part of the usual speed below which a link is measured again
constexpr int kLooksAgain = 3;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class PairMeasurement {
 public:
  explicit PairMeasurement(Communicator& comm)
      : comm_(comm), memory_(static_cast<std::size_t>(kPiece)) {}

  // `from` sends and `to` receives; both call it. The sender gets the figures, and what it measured
  // before where that was better.
  void measure(int from, int to, LinkSpeed& best) {
    const bool sender = comm_.rank() == from;
    const int peer = sender ? to : from;
    double quickest = INFINITY;
    for (int i = 0; i < kShortMessages; ++i) {
      const auto begin = Clock::now();
      message(sender, peer, 8);
      message(!sender, peer, 8);
      quickest = std::min(quickest, seconds_since(begin) / 2);
    }
    const double one = pieces(sender, peer, 1);
    double count = std::clamp(std::ceil(kPairSeconds / one), 1.0, double{kMostPieces});
    exchange_count(sender, peer, count);
    const double all = pieces(sender, peer, static_cast<int>(count));
    if (!sender) return;
    best.bytes_per_second =
        std::max(best.bytes_per_second, count * static_cast<double>(kPiece) / all);
    best.seconds = best.seconds > 0 ? std::min(best.seconds, quickest) : quickest;
  }

 private:
  void message(bool send, int peer, std::int64_t bytes) {
    const Tensor data{memory_.data(), {bytes}, DType::u8};
    comm_.wait(stream_, send ? comm_.send(stream_, "doctor", data, peer)
                             : comm_.recv(stream_, "doctor", data, peer));
  }

  // Until the receiver says that it has them all: what is sent may lie in buffers for a while.
  double pieces(bool send, int peer, int count) {
    const auto begin = Clock::now();
    for (int i = 0; i < count; ++i) message(send, peer, kPiece);
    message(!send, peer, 8);
    return seconds_since(begin);
  }

  void exchange_count(bool send, int peer, double& count) {
    std::memcpy(memory_.data(), &count, sizeof count);
    message(send, peer, sizeof count);
    std::memcpy(&count, memory_.data(), sizeof count);
  }

  Communicator& comm_;
  Stream stream_;
  Buffer memory_;
};

// Whom a rank meets in a round: each of `ranks` (made even; the last then rests) meets each other
// once in ranks - 1 rounds, as in a chess tournament. -1: nobody.
int partner(int rank, int round, int ranks) {
  const int even = ranks + ranks % 2, circle = even - 1;
  int met = 0;
  if (rank == even - 1) {
    met = round;  // x with 2 x = 2 round
  } else {
    met = ((2 * round - rank) % circle + circle) % circle;
    if (met == rank) met = even - 1;
  }
  return met < ranks ? met : -1;
}

void measure_both(PairMeasurement& pair, int rank, int peer, std::vector<LinkSpeed>& mine) {
  LinkSpeed& link = mine[static_cast<std::size_t>(peer)];
  pair.measure(std::min(rank, peer), std::max(rank, peer), link);
  pair.measure(std::max(rank, peer), std::min(rank, peer), link);
}

Tensor bytes_of(void* data, std::size_t bytes) {
  return {data, {static_cast<std::int64_t>(bytes)}, DType::u8};
}

NetworkMap gather_map(Communicator& comm, std::vector<LinkSpeed>& mine) {
  const auto n = static_cast<std::size_t>(comm.world_size());
  Stream stream;
  NetworkMap map;
  map.links.resize(n * n);
  comm.wait(stream, comm.all_gather(stream, "links", bytes_of(mine.data(), n * sizeof(LinkSpeed)),
                                    bytes_of(map.links.data(), n * n * sizeof(LinkSpeed))));
  std::vector<char> name(kName, '\0'), names(n * kName);
  ::gethostname(name.data(), kName - 1);
  comm.wait(stream, comm.all_gather(stream, "names", bytes_of(name.data(), kName),
                                    bytes_of(names.data(), n * kName)));
  for (std::size_t r = 0; r < n; ++r) map.hosts.emplace_back(&names[r * kName]);
  return map;
}

// Cost: n - 1 rounds (at most 63) of two directions, then up to kLooksAgain times at most 4 n links
// that looked slow, one after another: what else used the network or the processors at a moment
// should not make a fault. Every rank has the same map, so all agree on what is measured again.
void measure(Communicator& comm) {
  const int n = comm.world_size(), rank = comm.rank();
  Stream stream;
  PairMeasurement pair(comm);
  std::vector<LinkSpeed> mine(static_cast<std::size_t>(n));
  const int rounds = std::min(n + n % 2 - 1, kMostRounds);
  for (int round = 0; n > 1 && round < rounds; ++round) {
    const int peer = partner(rank, round, n);
    if (peer >= 0) measure_both(pair, rank, peer, mine);
    comm.wait(stream, comm.barrier(stream, "round"));
  }
  NetworkMap map = gather_map(comm, mine);
  for (int look = 0; look < kLooksAgain; ++look) {
    std::vector<std::size_t> slow = slow_links(map, kSlowLink);
    if (slow.empty()) break;
    slow.resize(std::min(slow.size(), static_cast<std::size_t>(4 * n)));
    for (const std::size_t link : slow) {
      const int from = static_cast<int>(link) / n, to = static_cast<int>(link) % n;
      if (rank == from || rank == to) {
        pair.measure(from, to, mine[static_cast<std::size_t>(rank == from ? to : from)]);
      }
      comm.wait(stream, comm.barrier(stream, "again"));
    }
    map = gather_map(comm, mine);
  }
  if (rank == 0) std::printf("%s\n", print_network_map(map).c_str());
}

}  // namespace

void measure_as_rank(double deadline_seconds) {
  char name[kName] = {};
  ::gethostname(name, kName - 1);
  std::printf("started on %s\n", name);
  std::fflush(stdout);
  HostOptions options;
  options.deadline_seconds = deadline_seconds;
  options.tune_file = "";
  with_ranks(/*local=*/0, measure, options);
}

}  // namespace peal
