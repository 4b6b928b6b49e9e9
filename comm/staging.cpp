#include "comm/staging.h"

#include <algorithm>

#include "comm/index.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

bool has_blocks(CallKind kind) {
  return kind == CallKind::reduce_scatter || kind == CallKind::all_gather ||
         kind == CallKind::gather || kind == CallKind::scatter || kind == CallKind::all_to_all;
}

// Where the partial sums of a chunk lie in the buffer, in elements.
std::size_t stride(const Call& call, Slice chunk) {
  const std::size_t unit = kAlignment / call.element_size();
  return (chunk.size() + unit - 1) / unit * unit;
}

// visit(i, elements of tensor i, place) for the tensors of a group that the chunk is in.
template <typename Visit>
void visit_parts(const Call& call, Slice chunk, const Visit& visit) {
  for (int i = 0; i < call.parts(); ++i) {
    const Slice part = call.part(i), both = intersection(part, chunk);
    if (both.size() == 0) continue;
    visit(i, Slice{both.begin - part.begin, both.end - part.begin}, both.begin - chunk.begin);
  }
}

}  // namespace

std::size_t Staging::least_bytes(int ranks) {
  return std::max(2 * at(ranks), at(kMaxInputs)) * kAlignment;
}

std::size_t Staging::chunk_elements(const Call& call, std::size_t bytes) const {
  std::size_t arrays = 1;
  if (has_blocks(call.record.kind)) arrays = at(ranks_);
  if (call.record.kind == CallKind::all_to_all) arrays = 2 * at(ranks_);
  if (call.tree != nullptr) arrays = at(call.tree->most);
  const std::size_t unit = kAlignment / call.element_size();
  return std::max(bytes / (arrays * call.element_size()) / unit * unit, unit);
}

// Of the input's block for a rank, and of the output's block from one.
Slice Staging::outgoing(const Call& call, Slice chunk, int rank) const {
  return clip(call.block(rank), chunk);
}

Slice Staging::incoming(const Call& call, Slice chunk, int rank) const {
  return clip(call.incoming(rank_, rank), chunk);
}

// Of an array that is this rank's block alone.
Slice Staging::mine(const Call& call, Slice chunk) const {
  return clip({0, call.block(rank_).size()}, chunk);
}

// Where the buffer holds the blocks of all ranks, this rank's is among them; else it stands alone.
std::size_t Staging::place_of_mine(const Call& call, Slice chunk) const {
  const bool all = call.has_input_blocks() ? call.input_count > 0 : call.output_count > 0;
  std::size_t place = 0;
  for (int r = 0; all && r < rank_; ++r) place += clip(call.block(r), chunk).size();
  return place;
}

// What an all_to_all receives lies behind what it sends.
std::size_t Staging::place_of_arrivals(const Call& call, Slice chunk) const {
  std::size_t place = 0;
  for (int r = 0; r < ranks_; ++r) place += outgoing(call, chunk, r).size();
  return stride(call, {0, place});
}

// Of a chunk of the whole array, what is in this rank's block.
Slice Staging::mine_of_array(const Call& call, Slice chunk) const {
  return intersection(call.block(rank_), chunk);
}

// visit(array, its elements, where they lie in the buffer: elements from its begin)
template <typename Visit>
void Staging::visit_inputs(const Call& call, Slice chunk, const Visit& visit) const {
  if (call.is_group()) return visit_parts(call, chunk, visit);
  if (call.input_count == 0) return;
  if (call.has_input_blocks()) {
    std::size_t place = 0;
    for (int r = 0; r < ranks_; ++r) {
      const Slice elements = outgoing(call, chunk, r);
      visit(0, elements, place);
      place += elements.size();
    }
    return;
  }
  if (has_blocks(call.record.kind)) {
    return visit(0, mine(call, chunk), place_of_mine(call, chunk));
  }
  for (int i = 0; i < call.input_count; ++i) visit(i, chunk, at(i) * stride(call, chunk));
}

template <typename Visit>
void Staging::visit_outputs(const Call& call, Slice chunk, const Visit& visit) const {
  if (call.is_group()) return visit_parts(call, chunk, visit);
  if (call.output_count == 0) return;
  const CallKind kind = call.record.kind;
  if (kind == CallKind::all_gather || kind == CallKind::gather || kind == CallKind::all_to_all) {
    std::size_t place = kind == CallKind::all_to_all ? place_of_arrivals(call, chunk) : 0;
    for (int r = 0; r < ranks_; ++r) {
      const Slice elements = incoming(call, chunk, r);
      visit(0, elements, place);
      place += elements.size();
    }
  } else if (has_blocks(kind)) {
    visit(0, mine(call, chunk), place_of_mine(call, chunk));
  } else if (kind == CallKind::reduce_scatter_tree) {
    const Slice part = mine_of_array(call, chunk);
    if (part.size() == 0) return;
    const std::size_t first = call.block(rank_).begin;
    visit(0, Slice{part.begin - first, part.end - first}, part.begin - chunk.begin);
  } else {
    visit(0, chunk, 0);
  }
}

void Staging::copy_in(const Call& call, Slice chunk, std::byte* buffer, const Copy& copy) const {
  const std::size_t size = call.element_size();
  visit_inputs(call, chunk, [&](int i, Slice elements, std::size_t place) {
    copy(buffer + place * size, call.inputs[at(i)] + elements.begin * size, elements.size() * size);
  });
}

void Staging::copy_out(const Call& call, Slice chunk, std::byte* buffer, const Copy& copy) const {
  const std::size_t size = call.element_size();
  visit_outputs(call, chunk, [&](int i, Slice elements, std::size_t place) {
    copy(call.outputs[at(i)] + elements.begin * size, buffer + place * size,
         elements.size() * size);
  });
}

Call Staging::call_on(const Call& call, Slice chunk, std::byte* buffer) {
  const std::size_t size = call.element_size();
  const auto place = [&](std::size_t elements) { return buffer + elements * size; };
  Call on = call;
  on.record.count = on.longest = on.input_elements = static_cast<std::int64_t>(chunk.size());
  for (int i = 0; i < on.input_count; ++i) {
    on.inputs[at(i)] = place(at(i) * stride(call, chunk));
  }
  if (on.output_count > 0) on.outputs[0] = buffer;
  if (call.record.kind == CallKind::reduce_scatter_tree) {
    const Slice part = mine_of_array(call, chunk);
    if (part.size() > 0) on.outputs[0] = place(part.begin - chunk.begin);
  }
  if (call.is_group()) {
    for (int i = 0; i < call.parts(); ++i) {
      const std::size_t begin = intersection(call.part(i), chunk).begin;
      on.outputs[at(i)] = place(std::min(std::max(begin, chunk.begin), chunk.end) - chunk.begin);
      on.inputs[at(i)] = on.outputs[at(i)];
    }
  } else if (has_blocks(call.record.kind)) {
    std::size_t all = 0;
    for (int r = 0; r < ranks_; ++r) all += clip(call.block(r), chunk).size();
    const std::size_t mine_at = place_of_mine(call, chunk);
    if (call.record.kind == CallKind::all_to_all) {
      on.outputs[0] = place(place_of_arrivals(call, chunk));
    } else if (call.has_input_blocks()) {
      on.outputs[0] = place(mine_at);
    } else {
      on.inputs[0] = place(mine_at);
      all = mine(call, chunk).size();
    }
    on.input_elements = static_cast<std::int64_t>(all);
  }
  if (call.bounds != nullptr) set_bounds(on, call, chunk);
  return on;
}

// The bounds of the chunk's part of each block, or of each tensor of a group.
void Staging::set_bounds(Call& on, const Call& call, Slice chunk) {
  bounds_.clear();
  std::int64_t longest = 0;
  const auto add_all = [&](int blocks, auto slice_of_block) {
    std::int64_t end = 0;
    bounds_.push_back(end);
    for (int i = 0; i < blocks; ++i) {
      const auto elements = static_cast<std::int64_t>(slice_of_block(i).size());
      bounds_.push_back(end += elements);
      longest = std::max(longest, elements);
    }
    return end;
  };
  if (call.is_group()) {
    add_all(call.parts(), [&](int i) { return intersection(call.part(i), chunk); });
  } else if (call.record.kind == CallKind::reduce_scatter_tree) {
    add_all(ranks_, [&](int r) { return intersection(call.block(r), chunk); });
  } else {
    on.record.count = add_all(ranks_, [&](int r) { return clip(call.block(r), chunk); });
    if (call.record.kind == CallKind::all_to_all) {
      add_all(ranks_, [&](int r) { return incoming(call, chunk, r); });
      on.record.count = 0;
    }
    on.longest = longest;
  }
  on.bounds = bounds_.data();
  on.bound_count = static_cast<int>(bounds_.size());
}

}  // namespace peal
