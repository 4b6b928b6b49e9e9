#include "launcher/measure_collectives.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/base/error.h"
#include "launcher/bench.h"

namespace peal {
namespace {

constexpr double kFewest = 5, kMost = 5000;
constexpr int kRoot = 0;
constexpr int kPoison = 0xA5;  // no element of any dtype that is right looks like this

}  // namespace

int CollectiveCase::blocks(int ranks) const {
  switch (op) {
    case Collective::reduce_scatter:
    case Collective::all_gather:
    case Collective::gather:
    case Collective::scatter:
    case Collective::all_to_all:
      return ranks;
    default:
      return 1;
  }
}

bool CollectiveCase::reduces() const {
  return op == Collective::all_reduce || op == Collective::ordered_tree ||
         op == Collective::reduce || op == Collective::reduce_scatter;
}

std::size_t CollectiveCase::bytes(std::int64_t count, int ranks) const {
  return static_cast<std::size_t>(count * blocks(ranks)) * size_of(dtype);
}

double CollectiveCase::bus_factor(int ranks) const {
  const double others = static_cast<double>(ranks - 1) / ranks;
  if (op == Collective::all_reduce || op == Collective::ordered_tree) return 2 * others;
  return blocks(2) > 1 ? others : 1;
}

CollectiveBench::CollectiveBench(const CollectiveCase& what, std::int64_t most, Communicator& comm)
    : what_(what),
      comm_(comm),
      ranks_(comm.world_size()),
      rank_(comm.rank()),
      mine_(ExactValues::of_rank(what.dtype, comm.rank())) {
  const std::size_t bytes = what.bytes(most, ranks_);
  const auto make = [&] { return what.private_memory ? Buffer(bytes) : comm.allocate(bytes); };
  memory_.x = make();
  memory_.y = make();
  if (what.peer == Peer::mpi) {
    mpi_ = std::make_unique<MpiPeer>();
    peer_memory_ = {Buffer(bytes), Buffer(bytes)};
  } else if (what.peer == Peer::ring) {
    peer_memory_.x = make();
    peer_memory_.y = make();
  }
}

CollectiveTimes CollectiveBench::measure(std::int64_t count, bool in_place) {
  const bool peer = what_.peer != Peer::none;
  const Operands ours = operands(memory_, count, in_place);
  const Operands theirs = operands(peer_memory_, count, in_place);
  fill(ours);
  if (peer) fill(theirs);
  CollectiveTimes result;
  result.iterations = iterations(ours, theirs);
  std::vector<double> seconds(static_cast<std::size_t>(result.iterations)), peer_seconds(seconds);
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    if (what_.fresh) fill(ours);
    seconds[i] = timed([&] { call(ours); });
    if (!peer) continue;
    if (what_.fresh) fill(theirs);
    peer_seconds[i] = timed([&] { call_peer(theirs); });
  }
  agree_on_slowest(seconds);
  result.mean =
      std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(seconds.size());
  result.median = quantile(seconds, 0.5);
  result.p99 = quantile(seconds, 0.99);
  if (peer) {
    agree_on_slowest(peer_seconds);
    result.peer_median = quantile(peer_seconds, 0.5);
  }
  fill(ours);
  call(ours);
  result.wrong = wrong(ours);
  return result;
}

int CollectiveBench::partner() const {
  const int other = rank_ ^ 1;
  return other < ranks_ ? other : -1;
}

CollectiveBench::Operands CollectiveBench::operands(const Memory& memory, std::int64_t count,
                                                    bool in_place) const {
  const auto view = [&](const Buffer& buffer, int first_block, int blocks) {
    const std::size_t first = static_cast<std::size_t>(first_block * count) * size_of(what_.dtype);
    std::byte* const data = buffer.data() == nullptr ? nullptr : buffer.data() + first;
    return Tensor{data, {blocks * count}, what_.dtype};
  };
  const auto whole = [&](const Buffer& buffer) { return view(buffer, 0, ranks_); };
  const auto one = [&](const Buffer& buffer) { return view(buffer, 0, 1); };
  const bool on_root = in_place && rank_ == kRoot;
  switch (what_.op) {
    case Collective::all_reduce:
    case Collective::ordered_tree:
    case Collective::reduce:
    case Collective::broadcast:
    case Collective::ping_pong:
      return {one(memory.x), one(in_place ? memory.x : memory.y)};
    case Collective::reduce_scatter:
      return {whole(memory.x), in_place ? view(memory.x, rank_, 1) : one(memory.y)};
    case Collective::all_gather:
      return {in_place ? view(memory.y, rank_, 1) : one(memory.x), whole(memory.y)};
    case Collective::gather:
      return {on_root ? view(memory.y, rank_, 1) : one(memory.x), whole(memory.y)};
    case Collective::scatter:
      return {whole(memory.x), on_root ? view(memory.x, rank_, 1) : one(memory.y)};
    case Collective::all_to_all:
      return {whole(memory.x), whole(memory.y)};
  }
  fail_internal("bench collectives", "no such collective");
}

void CollectiveBench::call(const Operands& at) {
  const auto start = [&] {
    switch (what_.op) {
      case Collective::all_reduce:
        return comm_.all_reduce(stream_, "bench", at.x, at.y, ReduceOp::sum, what_.algorithm);
      case Collective::ordered_tree:
        return comm_.all_reduce_tree(stream_, "bench", ranks_, std::span(&at.x, 1), at.y);
      case Collective::reduce:
        return comm_.reduce(stream_, "bench", at.x, at.y, ReduceOp::sum, kRoot);
      case Collective::reduce_scatter:
        return comm_.reduce_scatter(stream_, "bench", at.x, at.y, ReduceOp::sum);
      case Collective::all_gather:
        return comm_.all_gather(stream_, "bench", at.x, at.y);
      case Collective::gather:
        return comm_.gather(stream_, "bench", at.x, at.y, kRoot);
      case Collective::scatter:
        return comm_.scatter(stream_, "bench", at.x, at.y, kRoot);
      case Collective::all_to_all:
        return comm_.all_to_all(stream_, "bench", at.x, at.y);
      case Collective::broadcast:
        return comm_.broadcast(stream_, "bench", at.x, kRoot);
      case Collective::ping_pong:
        if (partner() < 0) return Request();
        if (rank_ % 2 == 0) comm_.send(stream_, "bench", at.x, partner());
        if (rank_ % 2 == 0) return comm_.recv(stream_, "bench", at.y, partner());
        comm_.recv(stream_, "bench", at.y, partner());
        return comm_.send(stream_, "bench", at.x, partner());
    }
    return Request();
  };
  comm_.wait(stream_, start());
}

void CollectiveBench::call_peer(const Operands& at) {
  if (mpi_) return call_mpi(at);
  const auto op = ReduceOp::sum;
  comm_.wait(stream_, comm_.all_reduce(stream_, "ring", at.x, at.y, op, Algorithm::ring));
}

void CollectiveBench::call_mpi(const Operands& at) {
  switch (what_.op) {
    case Collective::all_reduce:
    case Collective::ordered_tree:
      return mpi_->all_reduce(at.x, at.y);
    case Collective::reduce:
      return mpi_->reduce(at.x, at.y, kRoot);
    case Collective::reduce_scatter:
      return mpi_->reduce_scatter(at.x, at.y);
    case Collective::all_gather:
      return mpi_->all_gather(at.x, at.y);
    case Collective::gather:
      return mpi_->gather(at.x, at.y, kRoot);
    case Collective::scatter:
      return mpi_->scatter(at.x, at.y, kRoot);
    case Collective::all_to_all:
      return mpi_->all_to_all(at.x, at.y);
    case Collective::broadcast:
      return mpi_->broadcast(at.x, kRoot);
    case Collective::ping_pong:
      if (partner() < 0) return;
      if (rank_ % 2 == 0) mpi_->send(at.x, partner());
      mpi_->recv(at.y, partner());
      if (rank_ % 2 == 1) mpi_->send(at.x, partner());
      return;
  }
}

double CollectiveBench::timed(const std::function<void()>& work) {
  comm_.wait(stream_, comm_.barrier(stream_, "bench"));
  const double start = seconds_now();
  work();
  const double ways = what_.op == Collective::ping_pong ? 2 : 1;
  return (seconds_now() - start) / ways;
}

// The warm-up, whose fastest call tells how many fit the time.
std::int64_t CollectiveBench::iterations(const Operands& ours, const Operands& theirs) {
  std::vector<double> fastest = {what_.seconds};
  for (std::int64_t i = 0; i < what_.warmup; ++i) {
    const double start = seconds_now();
    timed([&] { call(ours); });
    if (what_.peer != Peer::none) timed([&] { call_peer(theirs); });
    fastest[0] = std::min(fastest[0], seconds_now() - start);
  }
  if (what_.iterations > 0) return what_.iterations;
  agree_on_slowest(fastest);
  return static_cast<std::int64_t>(std::clamp(what_.seconds / fastest[0], kFewest, kMost));
}

void CollectiveBench::agree_on_slowest(std::vector<double>& seconds) {
  const Tensor all{seconds.data(), {static_cast<std::int64_t>(seconds.size())}, DType::f64};
  comm_.wait(stream_, comm_.all_reduce(stream_, "bench times", all, all, ReduceOp::max));
}

// An element's place in the array of all ranks decides its value. x comes last: it may be a part
// of y, or y one of x.
void CollectiveBench::fill(const Operands& at) const {
  const bool gathers = what_.op == Collective::all_gather || what_.op == Collective::gather;
  std::memset(at.y.data, kPoison, at.y.bytes());
  mine_.fill(at.x.as<std::byte>(), gathers ? rank_ * at.x.numel() : 0, at.x.numel());
}

std::int64_t CollectiveBench::wrong(const Operands& at) {
  std::int64_t wrong = wrong_here(at);
  const Tensor sum{&wrong, {1}, DType::i64};
  comm_.wait(stream_, comm_.all_reduce(stream_, "bench check", sum, sum, ReduceOp::sum));
  return wrong;
}

std::int64_t CollectiveBench::wrong_here(const Operands& at) const {
  const std::byte* y = at.y.as<std::byte>();
  const std::int64_t block = at.y.numel() / ranks_;  // where y has one for every rank
  // The blocks of y are elements [first(r), first(r) + block) of every rank r.
  const auto wrong_blocks = [&](auto first) {
    std::int64_t wrong = 0;
    for (int r = 0; r < ranks_; ++r) {
      const std::byte* at_r = y + static_cast<std::size_t>(r * block) * size_of(what_.dtype);
      wrong += ExactValues::of_rank(what_.dtype, r).wrong(at_r, first(r), block);
    }
    return wrong;
  };
  const auto wrong_sum = [&](std::int64_t first) {
    return ExactValues::sum_of_ranks(what_.dtype, ranks_).wrong(y, first, at.y.numel());
  };
  const auto wrong_copy = [&](int rank, std::int64_t first) {
    return ExactValues::of_rank(what_.dtype, rank).wrong(y, first, at.y.numel());
  };
  switch (what_.op) {
    case Collective::all_reduce:
    case Collective::ordered_tree:
      return wrong_sum(0);
    case Collective::reduce:
      return rank_ == kRoot ? wrong_sum(0) : 0;
    case Collective::reduce_scatter:
      return wrong_sum(rank_ * at.y.numel());
    case Collective::gather:
      if (rank_ != kRoot) return 0;
      [[fallthrough]];
    case Collective::all_gather:
      return wrong_blocks([&](int r) { return r * block; });
    case Collective::all_to_all:
      return wrong_blocks([&](int) { return rank_ * block; });
    case Collective::scatter:
      return wrong_copy(kRoot, rank_ * at.y.numel());
    case Collective::broadcast:
      return wrong_copy(kRoot, 0);
    case Collective::ping_pong:
      return partner() < 0 ? 0 : wrong_copy(partner(), 0);
  }
  fail_internal("bench collectives", "no such collective");
}

}  // namespace peal
