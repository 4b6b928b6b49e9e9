#include "comm/device_collectives.h"

#include <algorithm>

#include "comm/combine.h"
#include "comm/index.h"
#include "core/base/error.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

// Of an array that is exchanged at once: bounds the memory beside the user's.
constexpr std::size_t kDevicePieceBytes = std::size_t{32} << 20;

bool is_float(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || partial_is_f32(dtype);
}

// What NCCL does as the contract says: it rounds a half type at every step, and does not promise
// that a NaN wins.
bool is_native(DType dtype, ReduceOp op) {
  const bool picks = op == ReduceOp::min || op == ReduceOp::max;
  return !partial_is_f32(dtype) && !(is_float(dtype) && picks);
}

// The ranks' sum is divided afterwards: each rounds once.
ReduceOp without_mean(ReduceOp op) {
  return op == ReduceOp::mean ? ReduceOp::sum : op;
}

}  // namespace

DeviceCollectives::DeviceCollectives(DeviceEngine& engine, int ranks, int rank)
    : engine_(engine),
      ranks_(ranks),
      rank_(rank),
      chain_(chain_plan(ranks)),
      pairs_(tree_plan(ranks, ranks).reduce) {}

void DeviceCollectives::run(const Call& call) {
  switch (call.record.kind) {
    case CallKind::all_reduce:
      return all_reduce(call);
    case CallKind::all_reduce_tree:
      return ordered(call, call.tree->reduce,
                     {{call.inputs.data(), at(call.input_count)}, call.output(), call.count()});
    case CallKind::reduce:
      return reduce(call);
    case CallKind::reduce_scatter:
      return reduce_scatter(call);
    case CallKind::all_gather:
      return all_gather(call);
    case CallKind::gather:
    case CallKind::scatter:
    case CallKind::all_to_all:
      return exchange(call);
    case CallKind::broadcast: {
      if (call.count() == 0) return;
      // NCCL takes one pointer for both.
      auto* x = call.output_count > 0 ? call.output() : const_cast<std::byte*>(call.inputs[0]);
      return engine_.broadcast(x, call.count() * call.element_size(), call.record.parameter);
    }
    case CallKind::send:
    case CallKind::recv:
      return send_or_receive(call);
    case CallKind::barrier:
      return barrier();
    case CallKind::reduce_scatter_tree:
      return reduce_scatter_tree(call);
  }
}

bool DeviceCollectives::is_native(const Call& call) {
  return call.record.algorithm != Algorithm::ordered_tree &&
         peal::is_native(call.record.dtype, call.record.op);
}

// Every rank sends each slice of its inputs to the owner of the slice. `scratch` holds this rank's
// slice of all sources.
template <typename SliceOf>
SumSources DeviceCollectives::to_owners(const Call& call, std::span<const std::byte* const> inputs,
                                        std::byte* scratch, const SliceOf& slice_of) {
  const std::size_t size = call.element_size();
  const auto first_of = [&](int r) { return call.tree != nullptr ? call.tree->first[at(r)] : r; };
  const Slice mine = slice_of(rank_);
  const std::size_t bytes = mine.size() * size;
  SumSources sources;
  sources.stride = align_up(bytes);
  sources.arrived = scratch;
  sources.first_own = first_of(rank_);
  for (const std::byte* input : inputs) {
    sources.own[sources.own_count++] = input + mine.begin * size;
  }
  engine_.begin_group();
  for (int k = 1; k < ranks_; ++k) {
    const int from = around(rank_ - k), to = around(rank_ + k);
    for (int source = first_of(from); bytes > 0 && source < first_of(from + 1); ++source) {
      engine_.receive(const_cast<std::byte*>(sources.at(source)), bytes, from);
    }
    const Slice theirs = slice_of(to);
    for (const std::byte* input : inputs) {
      if (theirs.size() == 0) continue;
      engine_.send(input + theirs.begin * size, theirs.size() * size, to);
    }
  }
  engine_.end_group();
  return sources;
}

// NCCL's: a ring or a tree, 2 (n-1)/n N bytes per rank; the tensors of a group are one launch.
// Otherwise as `ordered` says, tensor by tensor.
void DeviceCollectives::all_reduce(const Call& call) {
  const CallRecord& record = call.record;
  const bool ordered_tree = record.algorithm == Algorithm::ordered_tree;
  const bool native = is_native(call);
  if (native) engine_.begin_group();
  for (int i = 0; i < call.parts(); ++i) {
    const std::size_t count = call.part(i).size();
    if (count == 0) continue;
    if (native) {
      engine_.all_reduce(call.inputs[at(i)], call.outputs[at(i)], count, record.dtype,
                         without_mean(record.op));
    } else {
      ordered(call, ordered_tree ? pairs_ : chain_,
              {{&call.inputs[at(i)], 1}, call.outputs[at(i)], count});
    }
  }
  if (!native) return;
  engine_.end_group();
  for (int i = 0; i < call.parts(); ++i) {
    divide(call, call.outputs[at(i)], call.part(i).size());
  }
}

void DeviceCollectives::reduce(const Call& call) {
  const CallRecord& record = call.record;
  std::byte* y = call.output_count > 0 ? call.output() : nullptr;
  if (call.count() == 0) return;
  if (!peal::is_native(record.dtype, record.op)) {
    return ordered(call, chain_, {{call.inputs.data(), 1}, y, call.count()});
  }
  engine_.reduce(call.inputs[0], y, call.count(), record.dtype, without_mean(record.op),
                 record.parameter);
  if (y != nullptr) divide(call, y, call.count());
}

// NCCL's where blocks are of one size. Otherwise every rank sends each block to its owner, which
// sums it in rank order: 1 step, (n-1)/n N bytes per rank.
void DeviceCollectives::reduce_scatter(const Call& call) {
  const CallRecord& record = call.record;
  const std::size_t size = call.element_size();
  if (call.bounds == nullptr && peal::is_native(record.dtype, record.op)) {
    if (call.count() == 0) return;
    engine_.reduce_scatter(call.inputs[0], call.output(), call.count(), record.dtype,
                           without_mean(record.op));
    return divide(call, call.output(), call.count());
  }
  const Slice mine = call.block(rank_);
  const std::size_t stride = align_up(mine.size() * size);
  SumSources sources;
  sources.arrived = engine_.scratch(at(ranks_) * stride);
  sources.stride = stride;
  sources.first_own = rank_;
  sources.own_count = 1;
  sources.own[0] = call.inputs[0] + mine.begin * size;
  engine_.begin_group();
  for (int k = 1; k < ranks_; ++k) {
    const int from = around(rank_ - k), to = around(rank_ + k);
    const Slice theirs = call.block(to);
    if (mine.size() > 0) {
      auto* place = const_cast<std::byte*>(sources.at(from));
      engine_.receive(place, mine.size() * size, from);
    }
    if (theirs.size() > 0) {
      engine_.send(call.inputs[0] + theirs.begin * size, theirs.size() * size, to);
    }
  }
  engine_.end_group();
  if (mine.size() == 0) return;
  engine_.sum(chain_, sources, call.output(), mine.size(), record.dtype, record.op, ranks_);
}

// 1 step, p (n-1)/n N bytes per rank with p partial sums each.
void DeviceCollectives::reduce_scatter_tree(const Call& call) {
  const std::size_t elements = call.block(rank_).size(), size = call.element_size();
  const ReducePlan& plan = call.tree->reduce;
  std::byte* scratch = engine_.scratch(at(plan.sources) * align_up(elements * size));
  const SumSources sources = to_owners(call, {call.inputs.data(), at(call.input_count)}, scratch,
                                       [&](int r) { return call.block(r); });
  if (elements == 0) return;
  engine_.sum(plan, sources, call.output(), elements, call.record.dtype, call.record.op, ranks_);
}

void DeviceCollectives::all_gather(const Call& call) {
  if (call.bounds != nullptr) return exchange(call);
  if (call.count() == 0) return;
  engine_.all_gather(call.inputs[0], call.output(), call.count() * call.element_size());
}

// Every rank sends straight to those that receive from it: 1 step. Bytes sent, N being the array of
// all blocks: (n-1)/n N (all_gather, all_to_all; scatter, by the root), N/n to the root (gather).
void DeviceCollectives::exchange(const Call& call) {
  const std::size_t size = call.element_size();
  engine_.begin_group();
  for (int k = 1; k < ranks_; ++k) {
    const int from = around(rank_ - k), to = around(rank_ + k);
    const Slice in = call.incoming(rank_, from), out = call.outgoing(rank_, to);
    if (in.size() > 0) engine_.receive(call.output() + in.begin * size, in.size() * size, from);
    if (out.size() > 0) engine_.send(call.inputs[0] + out.begin * size, out.size() * size, to);
  }
  engine_.end_group();
  const Slice in = call.incoming(rank_, rank_), out = call.outgoing(rank_, rank_);
  if (in.size() == 0) return;
  copy(engine_.stream(), call.output() + in.begin * size, call.inputs[0] + out.begin * size,
       in.size() * size);
}

void DeviceCollectives::send_or_receive(const Call& call) {
  const std::size_t bytes = call.count() * call.element_size();
  if (bytes == 0) return;
  const int peer = call.record.parameter;
  if (call.record.kind == CallKind::send) {
    engine_.send(call.inputs[0], bytes, peer);
  } else {
    engine_.receive(call.output(), bytes, peer);
  }
}

void DeviceCollectives::barrier() {
  std::byte* word = engine_.scratch(kAlignment);
  engine_.all_reduce(word, word, 1, DType::u8, ReduceOp::max);
}

// Slices of a length whose boundaries do not depend on the piece but at the end of the array.
Slice DeviceCollectives::slice(const Call& call, const Array& piece, int rank) const {
  return slice_of(piece.count, ranks_, rank, call.element_size());
}

void DeviceCollectives::ordered(const Call& call, const ReducePlan& plan, const Array& array) {
  const std::size_t size = call.element_size();
  const std::size_t unit = at(ranks_) * kAlignment;  // a piece of these has equal slices
  const std::size_t step = std::max(kDevicePieceBytes / unit, std::size_t{1}) * unit / size;
  for (std::size_t begin = 0; begin < array.count; begin += step) {
    inputs_.clear();
    for (const std::byte* input : array.inputs) inputs_.push_back(input + begin * size);
    std::byte* y = array.y != nullptr ? array.y + begin * size : nullptr;
    ordered_piece(call, plan, {inputs_, y, std::min(step, array.count - begin)});
  }
}

// Every rank sends each slice of its inputs to its owner, which reduces it in the order of `plan`
// by a kernel; then all-gather, or gather to the root: 2 steps, (p + 1) (n-1)/n N bytes per rank
// with p inputs each.
void DeviceCollectives::ordered_piece(const Call& call, const ReducePlan& plan,
                                      const Array& piece) {
  const std::size_t size = call.element_size();
  const Slice mine = slice(call, piece, rank_);
  const std::size_t bytes = mine.size() * size;
  std::byte* scratch = engine_.scratch((at(plan.sources) + 1) * align_up(bytes));
  const SumSources sources =
      to_owners(call, piece.inputs, scratch, [&](int r) { return slice(call, piece, r); });
  std::byte* total = piece.y != nullptr ? piece.y + mine.begin * size
                                        : scratch + at(plan.sources) * sources.stride;
  if (bytes > 0) {
    engine_.sum(plan, sources, total, mine.size(), call.record.dtype, call.record.op, ranks_);
  }
  share(call, piece, total);
}

// Every rank's slice to those that receive the reduction.
void DeviceCollectives::share(const Call& call, const Array& piece, const std::byte* total) {
  const std::size_t size = call.element_size();
  const std::size_t bytes = slice(call, piece, rank_).size() * size;
  const bool to_root = call.record.kind == CallKind::reduce;
  if (ranks_ == 1) return;
  if (!to_root && piece.count * size % (at(ranks_) * kAlignment) == 0) {
    return engine_.all_gather(total, piece.y, bytes);
  }
  engine_.begin_group();
  for (int k = 1; k < ranks_; ++k) {
    const int from = around(rank_ - k), to = around(rank_ + k);
    const Slice theirs = slice(call, piece, from);
    if (piece.y != nullptr && theirs.size() > 0) {
      engine_.receive(piece.y + theirs.begin * size, theirs.size() * size, from);
    }
    if (bytes > 0 && (!to_root || to == call.record.parameter)) engine_.send(total, bytes, to);
  }
  engine_.end_group();
}

void DeviceCollectives::divide(const Call& call, std::byte* y, std::size_t count) {
  if (call.record.op != ReduceOp::mean || ranks_ == 1 || count == 0) return;
  engine_.divide(y, count, call.record.dtype, ranks_);
}

}  // namespace peal
