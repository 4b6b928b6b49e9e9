#include "launcher/measure_collectives.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/base/error.h"
#include "launcher/bench.h"

namespace peal {
namespace {

constexpr double kSeconds = 0.4;  // of a measurement, where the iterations are not given
constexpr double kFewest = 5, kMost = 5000;
constexpr int kRoot = 0;
constexpr int kPoison = 0xA5;  // no element of any dtype that is right looks like this

}  // namespace

int CollectiveCase::blocks(int ranks) const {
  return op == Collective::reduce_scatter || op == Collective::all_gather ? ranks : 1;
}

std::size_t CollectiveCase::bytes(std::int64_t count, int ranks) const {
  return static_cast<std::size_t>(count * blocks(ranks)) * size_of(dtype);
}

double CollectiveCase::bus_factor(int ranks) const {
  const double others = static_cast<double>(ranks - 1) / ranks;
  switch (op) {
    case Collective::all_reduce:
    case Collective::ordered_tree:
      return 2 * others;
    case Collective::reduce_scatter:
    case Collective::all_gather:
      return others;
    case Collective::broadcast:
      return 1;
  }
  return 1;
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
  if (!what.beside_mpi) return;
  mpi_ = std::make_unique<MpiPeer>();
  mpi_memory_ = {Buffer(bytes), Buffer(bytes)};
}

CollectiveTimes CollectiveBench::measure(std::int64_t count, bool in_place) {
  const Operands ours = operands(memory_, count, in_place);
  const Operands theirs = operands(mpi_memory_, count, in_place);
  fill(ours);
  if (mpi_) fill(theirs);
  CollectiveTimes result;
  result.iterations = iterations(ours, theirs);
  std::vector<double> seconds(static_cast<std::size_t>(result.iterations)), mpi_seconds(seconds);
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    if (what_.fresh) fill(ours);
    seconds[i] = timed([&] { call(ours); });
    if (!mpi_) continue;
    if (what_.fresh) fill(theirs);
    mpi_seconds[i] = timed([&] { call_mpi(theirs); });
  }
  agree_on_slowest(seconds);
  result.mean =
      std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(seconds.size());
  result.median = quantile(seconds, 0.5);
  result.p99 = quantile(seconds, 0.99);
  if (mpi_) {
    agree_on_slowest(mpi_seconds);
    result.mpi_median = quantile(mpi_seconds, 0.5);
  }
  fill(ours);
  call(ours);
  result.wrong = wrong(ours);
  return result;
}

CollectiveBench::Operands CollectiveBench::operands(const Memory& memory, std::int64_t count,
                                                    bool in_place) const {
  const auto view = [&](const Buffer& buffer, int first_block, int blocks) {
    const std::int64_t first = first_block * count;
    return Tensor{buffer.data() + static_cast<std::size_t>(first) * size_of(what_.dtype),
                  {blocks * count},
                  what_.dtype};
  };
  switch (what_.op) {
    case Collective::all_reduce:
    case Collective::ordered_tree:
    case Collective::broadcast:
      return {view(memory.x, 0, 1), view(in_place ? memory.x : memory.y, 0, 1)};
    case Collective::reduce_scatter:
      return {view(memory.x, 0, ranks_),
              in_place ? view(memory.x, rank_, 1) : view(memory.y, 0, 1)};
    case Collective::all_gather:
      return {in_place ? view(memory.y, rank_, 1) : view(memory.x, 0, 1),
              view(memory.y, 0, ranks_)};
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
      case Collective::reduce_scatter:
        return comm_.reduce_scatter(stream_, "bench", at.x, at.y, ReduceOp::sum);
      case Collective::all_gather:
        return comm_.all_gather(stream_, "bench", at.x, at.y);
      case Collective::broadcast:
        return comm_.broadcast(stream_, "bench", at.x, kRoot);
    }
    return Request();
  };
  comm_.wait(stream_, start());
}

void CollectiveBench::call_mpi(const Operands& at) {
  switch (what_.op) {
    case Collective::all_reduce:
    case Collective::ordered_tree:
      return mpi_->all_reduce(at.x, at.y);
    case Collective::reduce_scatter:
      return mpi_->reduce_scatter(at.x, at.y);
    case Collective::all_gather:
      return mpi_->all_gather(at.x, at.y);
    case Collective::broadcast:
      return mpi_->broadcast(at.x, kRoot);
  }
}

double CollectiveBench::timed(const std::function<void()>& work) {
  comm_.wait(stream_, comm_.barrier(stream_, "bench"));
  const double start = seconds_now();
  work();
  return seconds_now() - start;
}

// The warm-up, whose fastest call tells how many fit the time.
std::int64_t CollectiveBench::iterations(const Operands& ours, const Operands& theirs) {
  std::vector<double> fastest = {kSeconds};
  for (std::int64_t i = 0; i < what_.warmup; ++i) {
    const double start = seconds_now();
    timed([&] { call(ours); });
    if (mpi_) timed([&] { call_mpi(theirs); });
    fastest[0] = std::min(fastest[0], seconds_now() - start);
  }
  if (what_.iterations > 0) return what_.iterations;
  agree_on_slowest(fastest);
  return static_cast<std::int64_t>(std::clamp(kSeconds / fastest[0], kFewest, kMost));
}

void CollectiveBench::agree_on_slowest(std::vector<double>& seconds) {
  const Tensor all{seconds.data(), {static_cast<std::int64_t>(seconds.size())}, DType::f64};
  comm_.wait(stream_, comm_.all_reduce(stream_, "bench times", all, all, ReduceOp::max));
}

// An element's place in the array of all ranks decides its value. x comes last: it may be a part
// of y, or y one of x.
void CollectiveBench::fill(const Operands& at) const {
  const bool gathers = what_.op == Collective::all_gather;
  std::memset(at.y.data, kPoison, at.y.bytes());
  mine_.fill(at.x.as<std::byte>(), gathers ? rank_ * at.x.numel() : 0, at.x.numel());
}

std::int64_t CollectiveBench::wrong(const Operands& at) {
  const std::byte* y = at.y.as<std::byte>();
  std::int64_t wrong = 0;
  switch (what_.op) {
    case Collective::all_reduce:
    case Collective::ordered_tree:
    case Collective::reduce_scatter: {
      const bool scatters = what_.op == Collective::reduce_scatter;
      wrong = ExactValues::sum_of_ranks(what_.dtype, ranks_)
                  .wrong(y, scatters ? rank_ * at.y.numel() : 0, at.y.numel());
      break;
    }
    case Collective::all_gather:
      for (int r = 0; r < ranks_; ++r) {
        const std::int64_t first = r * at.x.numel();
        wrong += ExactValues::of_rank(what_.dtype, r)
                     .wrong(y + static_cast<std::size_t>(r) * at.x.bytes(), first, at.x.numel());
      }
      break;
    case Collective::broadcast:
      wrong = ExactValues::of_rank(what_.dtype, kRoot).wrong(y, 0, at.y.numel());
      break;
  }
  const Tensor sum{&wrong, {1}, DType::i64};
  comm_.wait(stream_, comm_.all_reduce(stream_, "bench check", sum, sum, ReduceOp::sum));
  return wrong;
}

}  // namespace peal
