#include "comm/message_collectives.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "comm/index.h"

namespace peal {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;  // of an array that is in flight at once

std::size_t piece_elements(const Call& call) {
  return kPieceBytes / call.element_size();
}

std::vector<int> all_of(int ranks) {
  std::vector<int> list(static_cast<std::size_t>(ranks));
  std::iota(list.begin(), list.end(), 0);
  return list;
}

}  // namespace

MessageCollectives::MessageCollectives(Messages& messages, int ranks, int rank)
    : messages_(messages),
      ranks_(ranks),
      rank_(rank),
      chain_(chain_plan(ranks)),
      pairs_(tree_plan(ranks, ranks).reduce),
      pipeline_(messages, all_of(ranks), rank) {}

void MessageCollectives::reset() {
  pipeline_.reset();
}

void MessageCollectives::run(const Call& call, Way way) {
  switch (call.record.kind) {
    case CallKind::all_reduce:
    case CallKind::all_reduce_tree:
    case CallKind::reduce:
      return reduce(call, way);
    case CallKind::reduce_scatter:
      return reduce_scatter(call);
    case CallKind::reduce_scatter_tree:
      return reduce_scatter_tree(call);
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

ReducePipeline::Work MessageCollectives::work_of(const Call& call, Way way) const {
  ReducePipeline::Work work;
  work.tree = call.tree;
  work.dtype = call.record.dtype;
  work.op = call.record.op;
  work.divisor = ranks_;
  if (call.record.kind == CallKind::reduce) work.root = call.record.parameter;
  const bool ordered = call.record.algorithm == Algorithm::ordered_tree;
  work.plan = call.tree != nullptr ? &call.tree->reduce : ordered ? &pairs_ : &chain_;
  work.order = way == Way::ring ? ReducePipeline::Order::ring : ReducePipeline::Order::planned;
  return work;
}

// Steps and bytes: of the pipeline's order. A group passes through packed buffers, which costs a
// copy in and out and saves a message for each tensor.
void MessageCollectives::reduce(const Call& call, Way way) {
  constexpr std::size_t kAtOnce = ReducePipeline::kPieces;
  const ReducePipeline::Work work = work_of(call, way);
  const std::size_t step = ReducePipeline::piece_bytes(ranks_) / call.element_size();
  const std::size_t pieces = (call.count() + step - 1) / step;
  const auto piece = [&](std::size_t i) {
    return Slice{i * step, std::min(call.count(), (i + 1) * step)};
  };
  for (std::size_t i = 0; i < pieces + kAtOnce; ++i) {
    if (i >= kAtOnce && i - kAtOnce < pieces) {
      pipeline_.finish_oldest(call);
      if (call.is_group()) unpack(call, piece(i - kAtOnce), packed_[i % kAtOnce]);
    }
    if (i < pieces) begin_piece(call, work, piece(i), static_cast<int>(i % kAtOnce));
  }
}

void MessageCollectives::begin_piece(const Call& call, const ReducePipeline::Work& work,
                                     Slice piece, int packed) {
  const std::size_t begin = piece.begin * call.element_size();
  inputs_.clear();
  if (call.is_group()) {
    std::vector<std::byte>& buffer = packed_[at(packed)];
    pack(call, piece, buffer);
    inputs_.push_back(buffer.data());
    return pipeline_.begin(work, {inputs_, buffer.data(), piece.size()});
  }
  for (int i = 0; i < call.input_count; ++i) inputs_.push_back(call.inputs[at(i)] + begin);
  std::byte* y = call.output_count > 0 ? call.output() + begin : nullptr;
  pipeline_.begin(work, {inputs_, y, piece.size()});
}

void MessageCollectives::pack(const Call& call, Slice piece, std::vector<std::byte>& packed) {
  const std::size_t size = call.element_size();
  if (packed.size() < piece.size() * size) packed.resize(piece.size() * size);
  for (int i = 0; i < call.parts(); ++i) {
    const Slice part = call.part(i), both = intersection(part, piece);
    if (both.size() == 0) continue;
    std::memcpy(packed.data() + (both.begin - piece.begin) * size,
                call.inputs[at(i)] + (both.begin - part.begin) * size, both.size() * size);
  }
}

void MessageCollectives::unpack(const Call& call, Slice piece,
                                const std::vector<std::byte>& packed) {
  const std::size_t size = call.element_size();
  for (int i = 0; i < call.parts(); ++i) {
    const Slice part = call.part(i), both = intersection(part, piece);
    if (both.size() == 0) continue;
    std::memcpy(call.outputs[at(i)] + (both.begin - part.begin) * size,
                packed.data() + (both.begin - piece.begin) * size, both.size() * size);
  }
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
      messages_.receive(arrived, bytes, peer, lane_);
      sources_.push_back(arrived);
      arrived += bytes;
      const Slice theirs = clip(call.block(peer), chunk);
      messages_.send(row(theirs), theirs.size() * size, peer, lane_);
    }
    sources_.push_back(row(mine));
    messages_.finish(call, lane_);
    std::byte* y = call.output() + (mine.begin - block.begin) * size;
    reducer_.run(chain_, call.record.dtype, call.record.op, ranks_, sources_, std::span(&y, 1),
                 mine.size());
  }
}

// The same of partial sums, p on this rank: 1 step, p (n-1)/n N bytes per rank.
void MessageCollectives::reduce_scatter_tree(const Call& call) {
  const std::size_t size = call.element_size(), unit = kAlignment / size;
  const TreePlan& tree = *call.tree;
  std::size_t longest = 0;
  for (int r = 0; r < ranks_; ++r) longest = std::max(longest, call.block(r).size());
  const std::size_t pieces = at(ranks_) * at(tree.most);
  const std::size_t step = std::max(piece_elements(call) / pieces / unit * unit, unit);
  const auto place = [&](int input, Slice part) {
    return call.inputs[at(input)] + part.begin * size;
  };
  for (std::size_t begin = 0; begin < longest; begin += step) {
    const Slice chunk{begin, std::min(longest, begin + step)};
    const Slice block = call.block(rank_), mine = clip(block, chunk);
    const std::size_t bytes = mine.size() * size;
    std::byte* arrived = scratch(at(tree.reduce.sources) * bytes);
    sources_.clear();
    for (int peer = 0; peer < ranks_; ++peer) {
      for (int i = 0; i < tree.count(peer); ++i) {
        sources_.push_back(peer == rank_ ? place(i, mine) : arrived);
        if (peer == rank_) continue;
        messages_.receive(arrived, bytes, peer, lane_);
        arrived += bytes;
      }
    }
    for (int k = 1; k < ranks_; ++k) {
      const int peer = around(rank_ + k);
      const Slice theirs = clip(call.block(peer), chunk);
      for (int i = 0; i < call.input_count; ++i) {
        messages_.send(place(i, theirs), theirs.size() * size, peer, lane_);
      }
    }
    messages_.finish(call, lane_);
    std::byte* y = call.output() + (mine.begin - block.begin) * size;
    reducer_.run(tree.reduce, call.record.dtype, call.record.op, ranks_, sources_, std::span(&y, 1),
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
        messages_.receive(call.output() + in.begin * size, in.size() * size, from, lane_);
      }
      if (out.size() > 0) {
        messages_.send(call.inputs[0] + out.begin * size, out.size() * size, to, lane_);
      }
    }
    messages_.finish(call, lane_);
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
      messages_.receive(call.output() + begin * size, bytes, around(me - bit + root), lane_);
      messages_.finish(call, lane_);
    }
    for (bit /= 2; bit > 0; bit /= 2) {
      if (me + bit < ranks_)
        messages_.send(x + begin * size, bytes, around(me + bit + root), lane_);
    }
    messages_.finish(call, lane_);
  }
}

}  // namespace peal
