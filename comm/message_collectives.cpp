#include "comm/message_collectives.h"

#include <algorithm>
#include <cstring>

#include "comm/combine.h"

namespace peal {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;  // of an array that is in flight at once

std::size_t piece_elements(const Call& call) {
  return kPieceBytes / call.element_size();
}

std::size_t at(int index) {
  return static_cast<std::size_t>(index);
}

}  // namespace

MessageCollectives::MessageCollectives(Messages& messages, int ranks, int rank)
    : messages_(messages),
      ranks_(ranks),
      rank_(rank),
      chain_(chain_plan(ranks)),
      add_(chain_plan(2)),
      pairs_(tree_plan(ranks, ranks).reduce) {}

void MessageCollectives::run(const Call& call) {
  switch (call.record.kind) {
    case CallKind::all_reduce:
    case CallKind::all_reduce_tree:
    case CallKind::reduce:
      return reduce(call);
    case CallKind::reduce_scatter:
      return reduce_scatter(call);
    case CallKind::all_gather:
    case CallKind::gather:
    case CallKind::scatter:
    case CallKind::all_to_all:
      return exchange(call);
    case CallKind::broadcast:
      return broadcast(call);
    case CallKind::send:
    case CallKind::recv:
    case CallKind::barrier:
      return;
  }
}

std::byte* MessageCollectives::scratch(std::size_t bytes) {
  if (scratch_.size() < bytes) scratch_.resize(bytes);
  return scratch_.data();
}

// Of a piece, what `rank` owns.
Slice MessageCollectives::slice(const Call& call, const Piece& piece, int rank) const {
  return slice_of(piece.count, ranks_, around(rank), call.element_size());
}

// A group passes through one packed buffer, which costs a copy in and out and saves a message for
// each tensor.
void MessageCollectives::reduce(const Call& call) {
  const std::size_t size = call.element_size();
  for (std::size_t begin = 0; begin < call.count(); begin += piece_elements(call)) {
    const Slice elements{begin, std::min(call.count(), begin + piece_elements(call))};
    inputs_.clear();
    if (call.is_group()) {
      pack(call, elements);
      inputs_.push_back(packed_.data());
      reduce_piece(call, {inputs_, packed_.data(), elements.size()});
      unpack(call, elements);
      continue;
    }
    for (int i = 0; i < call.input_count; ++i) {
      inputs_.push_back(call.inputs[at(i)] + begin * size);
    }
    std::byte* y = call.output_count > 0 ? call.output() + begin * size : nullptr;
    reduce_piece(call, {inputs_, y, elements.size()});
  }
}

void MessageCollectives::pack(const Call& call, Slice piece) {
  const std::size_t size = call.element_size();
  if (packed_.size() < piece.size() * size) packed_.resize(piece.size() * size);
  for (int i = 0; i < call.parts(); ++i) {
    const Slice part = call.part(i), both = intersection(part, piece);
    if (both.size() == 0) continue;
    std::memcpy(packed_.data() + (both.begin - piece.begin) * size,
                call.inputs[at(i)] + (both.begin - part.begin) * size, both.size() * size);
  }
}

void MessageCollectives::unpack(const Call& call, Slice piece) {
  const std::size_t size = call.element_size();
  for (int i = 0; i < call.parts(); ++i) {
    const Slice part = call.part(i), both = intersection(part, piece);
    if (both.size() == 0) continue;
    std::memcpy(call.outputs[at(i)] + (both.begin - part.begin) * size,
                packed_.data() + (both.begin - piece.begin) * size, both.size() * size);
  }
}

// Around a ring partial sums travel, and would be rounded at every step: half types are summed by
// the owner of a slice, in f32, at the same number of bytes.
void MessageCollectives::reduce_piece(const Call& call, const Piece& piece) {
  if (call.tree != nullptr) return ordered(call, call.tree->reduce, piece);
  if (call.record.algorithm == Algorithm::ordered_tree) return ordered(call, pairs_, piece);
  const bool whole = call.record.kind == CallKind::reduce || partial_is_f32(call.record.dtype);
  whole ? ordered(call, chain_, piece) : ring(call, piece);
}

// Reduce-scatter and all-gather around a ring: 2 (n-1) steps, 2 (n-1)/n N bytes per rank.
void MessageCollectives::ring(const Call& call, const Piece& piece) {
  const std::size_t size = call.element_size();
  std::byte* y = piece.y;
  if (y != piece.inputs[0]) std::memcpy(y, piece.inputs[0], piece.count * size);
  const int next = around(rank_ + 1), before = around(rank_ - 1);
  for (int step = 0; step < ranks_ - 1; ++step) {
    const Slice out = slice(call, piece, rank_ - step), in = slice(call, piece, rank_ - step - 1);
    std::byte* arrived = scratch(in.size() * size);
    messages_.send(y + out.begin * size, out.size() * size, next);
    messages_.receive(arrived, in.size() * size, before);
    messages_.finish(call);
    const bool last = step == ranks_ - 2;
    const bool sums = call.record.op == ReduceOp::mean && !last;
    std::byte* sum = y + in.begin * size;
    const std::byte* sources[] = {arrived, sum};
    reducer_.run(add_, call.record.dtype, sums ? ReduceOp::sum : call.record.op, ranks_, sources,
                 std::span(&sum, 1), in.size());
  }
  for (int step = 0; step < ranks_ - 1; ++step) {
    const Slice out = slice(call, piece, rank_ + 1 - step), in = slice(call, piece, rank_ - step);
    messages_.send(y + out.begin * size, out.size() * size, next);
    messages_.receive(y + in.begin * size, in.size() * size, before);
    messages_.finish(call);
  }
}

// All-to-all exchange of the inputs, reduction in the order of `plan` by the owner of each slice,
// all-gather: 2 steps, (p + 1) (n-1)/n N bytes per rank with p inputs each. A `reduce` gathers to
// the root instead: 1/n N bytes per rank in the second step.
void MessageCollectives::ordered(const Call& call, const ReducePlan& plan, const Piece& piece) {
  const std::size_t size = call.element_size();
  const auto inputs_of = [&](int r) { return call.tree != nullptr ? call.tree->count(r) : 1; };
  const Slice mine = slice(call, piece, rank_);
  const std::size_t bytes = mine.size() * size;
  std::byte* arrived = scratch((at(plan.sources) + 1) * bytes);
  sources_.clear();
  for (int r = 0; r < ranks_; ++r) {
    for (int i = 0; i < inputs_of(r); ++i) {
      if (r == rank_) {
        sources_.push_back(piece.inputs[at(i)] + mine.begin * size);
        continue;
      }
      messages_.receive(arrived, bytes, r);
      sources_.push_back(arrived);
      arrived += bytes;
    }
  }
  for (int k = 1; k < ranks_; ++k) {
    const int to = around(rank_ + k);
    const Slice theirs = slice(call, piece, to);
    for (const std::byte* input : piece.inputs) {
      messages_.send(input + theirs.begin * size, theirs.size() * size, to);
    }
  }
  messages_.finish(call);
  std::byte* total = piece.y != nullptr ? piece.y + mine.begin * size : arrived;
  reducer_.run(plan, call.record.dtype, call.record.op, ranks_, sources_, std::span(&total, 1),
               mine.size());
  share(call, piece, total);
}

// Every rank's slice to those that receive the reduction.
void MessageCollectives::share(const Call& call, const Piece& piece, const std::byte* total) {
  const std::size_t size = call.element_size();
  const bool to_root = call.record.kind == CallKind::reduce;
  const std::size_t bytes = slice(call, piece, rank_).size() * size;
  for (int k = 1; k < ranks_; ++k) {
    const int from = around(rank_ - k), to = around(rank_ + k);
    if (piece.y != nullptr) {
      const Slice theirs = slice(call, piece, from);
      messages_.receive(piece.y + theirs.begin * size, theirs.size() * size, from);
    }
    if (!to_root || to == call.record.parameter) messages_.send(total, bytes, to);
  }
  messages_.finish(call);
}

// Pairwise exchange: 1 step, (n-1)/n N bytes per rank.
void MessageCollectives::reduce_scatter(const Call& call) {
  const std::size_t size = call.element_size(), unit = kAlignment / size;
  const auto longest = static_cast<std::size_t>(call.longest);
  const std::size_t step = std::max(piece_elements(call) / at(ranks_) / unit * unit, unit);
  const auto row = [&](Slice part) { return call.inputs[0] + part.begin * size; };
  for (std::size_t begin = 0; begin < longest; begin += step) {
    const Slice chunk{begin, std::min(longest, begin + step)};
    const Slice block = call.block(rank_), mine = clip(block, chunk);
    const std::size_t bytes = mine.size() * size;
    std::byte* arrived = scratch(at(ranks_) * bytes);
    sources_.clear();
    for (int k = 1; k < ranks_; ++k) {
      const int peer = around(rank_ + k);
      messages_.receive(arrived, bytes, peer);
      sources_.push_back(arrived);
      arrived += bytes;
      const Slice theirs = clip(call.block(peer), chunk);
      messages_.send(row(theirs), theirs.size() * size, peer);
    }
    sources_.push_back(row(mine));
    messages_.finish(call);
    std::byte* y = call.output() + (mine.begin - block.begin) * size;
    reducer_.run(chain_, call.record.dtype, call.record.op, ranks_, sources_, std::span(&y, 1),
                 mine.size());
  }
}

// Every rank sends straight to those that receive from it: 1 step. Bytes sent, N being the array of
// all blocks: (n-1)/n N (all_gather, all_to_all; scatter, by the root), N/n to the root (gather).
void MessageCollectives::exchange(const Call& call) {
  const std::size_t size = call.element_size(), step = piece_elements(call);
  const auto longest = static_cast<std::size_t>(call.longest);
  for (std::size_t begin = 0; begin < longest; begin += step) {
    const Slice chunk{begin, std::min(longest, begin + step)};
    const auto from_me = [&](int to) { return clip(call.outgoing(rank_, to), chunk); };
    const auto to_me = [&](int from) { return clip(call.incoming(rank_, from), chunk); };
    for (int k = 1; k < ranks_; ++k) {
      const int from = around(rank_ - k), to = around(rank_ + k);
      const Slice in = to_me(from), out = from_me(to);
      if (in.size() > 0) {
        messages_.receive(call.output() + in.begin * size, in.size() * size, from);
      }
      if (out.size() > 0) {
        messages_.send(call.inputs[0] + out.begin * size, out.size() * size, to);
      }
    }
    messages_.finish(call);
    const Slice in = to_me(rank_), out = from_me(rank_);
    if (in.size() == 0) continue;
    std::byte* to = call.output() + in.begin * size;
    const std::byte* from = call.inputs[0] + out.begin * size;
    if (to != from) std::memcpy(to, from, in.size() * size);
  }
}

// Binomial tree: ceil(log2 n) steps; the root sends that often N bytes.
void MessageCollectives::broadcast(const Call& call) {
  const std::size_t size = call.element_size();
  const int root = call.record.parameter, me = around(rank_ - root);
  const std::byte* x = me == 0 ? call.inputs[0] : call.output();
  for (std::size_t begin = 0; begin < call.count(); begin += piece_elements(call)) {
    const std::size_t bytes = std::min(piece_elements(call), call.count() - begin) * size;
    int bit = 1;
    while (bit < ranks_ && (me & bit) == 0) bit *= 2;
    if (me != 0) {
      messages_.receive(call.output() + begin * size, bytes, around(me - bit + root));
      messages_.finish(call);
    }
    for (bit /= 2; bit > 0; bit /= 2) {
      if (me + bit < ranks_) messages_.send(x + begin * size, bytes, around(me + bit + root));
    }
    messages_.finish(call);
  }
}

}  // namespace peal
