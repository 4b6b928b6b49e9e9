#include "comm/reduce_pipeline.h"

#include <algorithm>

#include "comm/index.h"
#include "core/base/error.h"

namespace peal {

static_assert(ReducePipeline::kPieces < Messages::kLanes);

ReducePipeline::ReducePipeline(Messages& messages, std::vector<int> peers, int me)
    : messages_(messages), peers_(std::move(peers)), me_(me), add_(chain_plan(2)) {
  for (int i = 0; i < kPieces; ++i) running_[at(i)].lane.number = i + 1;
}

std::size_t ReducePipeline::piece_bytes(int peers) {
  constexpr std::size_t kSlice = 128 << 10, kLeast = 128 << 10, kMost = std::size_t{4} << 20;
  return std::clamp(at(peers) * kSlice, kLeast, kMost);
}

void ReducePipeline::begin(const Work& work, const Piece& piece) {
  if (begun_ - finished_ == kPieces) fail_internal("reduce pipeline", "a piece too many");
  Running& running = running_[begun_++ % kPieces];
  running.work = work;
  running.piece = piece;
  running.inputs.assign(piece.inputs.begin(), piece.inputs.end());
  running.stage = 0;
  running.ended = false;
  advance_all();
}

void ReducePipeline::finish_oldest(const Call& call) {
  Running& oldest = running_[finished_ % kPieces];
  for (advance_all(); !oldest.ended; advance_all()) messages_.wait_for_any(call);
  ++finished_;
}

void ReducePipeline::reset() {
  for (Running& piece : running_) piece.ended = true;
  finished_ = begun_;
}

void ReducePipeline::advance_all() {
  for (std::uint64_t i = finished_; i < begun_; ++i) advance(running_[i % kPieces]);
}

void ReducePipeline::advance(Running& piece) {
  while (!piece.ended && piece.lane.under_way == 0) {
    piece.work.order == Order::ring ? ring(piece) : planned(piece);
    ++piece.stage;
  }
}

std::byte* ReducePipeline::scratch(Running& piece, std::size_t bytes) {
  if (piece.scratch.size() < bytes) piece.scratch.resize(bytes);
  return piece.scratch.data();
}

// Of a piece, what a peer owns.
Slice ReducePipeline::slice(const Running& piece, int peer) const {
  return slice_of(piece.piece.count, peers(), around(peer), size_of(piece.work.dtype));
}

// Reduce-scatter and all-gather around a ring: 2 (n-1) steps, 2 (n-1)/n N bytes per peer. Peer r
// begins with its own slice r, which ends up complete at peer r - 1.
void ReducePipeline::ring(Running& piece) {
  const std::size_t size = size_of(piece.work.dtype);
  const int steps = peers() - 1, stage = piece.stage;
  if (stage > 0 && stage <= steps) ring_reduce(piece, stage - 1);
  if (stage == 2 * steps) {
    piece.ended = true;
    return;
  }
  const bool gathers = stage >= steps;
  const int step = gathers ? stage - steps : stage;
  const Slice out = slice(piece, gathers ? me_ + 1 - step : me_ - step);
  const Slice in = slice(piece, gathers ? me_ - step : me_ - step - 1);
  const std::byte* from = stage == 0 ? piece.inputs[0] : piece.piece.y;
  std::byte* to = gathers ? piece.piece.y + in.begin * size : scratch(piece, in.size() * size);
  messages_.receive(to, in.size() * size, rank(me_ - 1), piece.lane);
  messages_.send(from + out.begin * size, out.size() * size, rank(me_ + 1), piece.lane);
}

void ReducePipeline::ring_reduce(Running& piece, int step) {
  const std::size_t size = size_of(piece.work.dtype);
  const Slice in = slice(piece, me_ - step - 1);
  const bool sums = piece.work.op == ReduceOp::mean && step < peers() - 2;
  std::byte* sum = piece.piece.y + in.begin * size;
  const std::byte* sources[] = {piece.scratch.data(), piece.inputs[0] + in.begin * size};
  reducer_.run(add_, piece.work.dtype, sums ? ReduceOp::sum : piece.work.op, piece.work.divisor,
               sources, std::span(&sum, 1), in.size());
}

// All-to-all exchange of the inputs, reduction in the planned order by the owner of each slice,
// all-gather: 2 steps, (p + 1) (n-1)/n N bytes per peer with p inputs each. With a root the slices
// are gathered there: 1/n N bytes per peer in the second step.
void ReducePipeline::planned(Running& piece) {
  if (piece.stage == 0) return exchange(piece);
  if (piece.stage == 1) {
    reduce(piece);
    return share(piece);
  }
  piece.ended = true;
}

void ReducePipeline::exchange(Running& piece) {
  const std::size_t size = size_of(piece.work.dtype);
  const auto inputs_of = [&](int peer) {
    return piece.work.tree != nullptr ? piece.work.tree->count(peer) : 1;
  };
  const Slice mine = slice(piece, me_);
  const std::size_t bytes = mine.size() * size;
  // Behind what arrives: the total, where it goes to a root.
  std::byte* arrived = scratch(piece, (at(piece.work.plan->sources) + 1) * bytes);
  piece.sources.clear();
  for (int peer = 0; peer < peers(); ++peer) {
    for (int i = 0; i < inputs_of(peer); ++i) {
      if (peer == me_) {
        piece.sources.push_back(piece.inputs[at(i)] + mine.begin * size);
        continue;
      }
      messages_.receive(arrived, bytes, rank(peer), piece.lane);
      piece.sources.push_back(arrived);
      arrived += bytes;
    }
  }
  for (int k = 1; k < peers(); ++k) {
    const Slice theirs = slice(piece, me_ + k);
    for (const std::byte* input : piece.inputs) {
      messages_.send(input + theirs.begin * size, theirs.size() * size, rank(me_ + k), piece.lane);
    }
  }
}

// Where this peer's slice is complete.
std::byte* ReducePipeline::total(Running& piece) {
  const std::size_t size = size_of(piece.work.dtype);
  const Slice mine = slice(piece, me_);
  if (piece.piece.y != nullptr) return piece.piece.y + mine.begin * size;
  return piece.scratch.data() + at(piece.work.plan->sources) * mine.size() * size;
}

void ReducePipeline::reduce(Running& piece) {
  std::byte* y = total(piece);
  reducer_.run(*piece.work.plan, piece.work.dtype, piece.work.op, piece.work.divisor, piece.sources,
               std::span(&y, 1), slice(piece, me_).size());
}

// Every peer's slice to those that receive the reduction.
void ReducePipeline::share(Running& piece) {
  const std::size_t size = size_of(piece.work.dtype);
  const std::size_t bytes = slice(piece, me_).size() * size;
  for (int k = 1; k < peers(); ++k) {
    const int from = around(me_ - k), to = around(me_ + k);
    if (piece.piece.y != nullptr) {
      const Slice theirs = slice(piece, from);
      messages_.receive(piece.piece.y + theirs.begin * size, theirs.size() * size, rank(from),
                        piece.lane);
    }
    if (piece.work.root >= 0 && piece.work.root != to) continue;
    messages_.send(total(piece), bytes, rank(to), piece.lane);
  }
}

}  // namespace peal
