// Calls with memory that peers cannot map: it goes through bounce buffers a chunk at a time, or,
// from a few chunks on and where the kernel lets ranks read each other, they fetch it.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "comm/index.h"
#include "comm/shared.h"
#include "comm/stream_copy.h"
#include "core/base/error.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

// Arrays of all ranks together from which on what is written leaves the caches before it is read.
constexpr std::size_t kStreamBytes = std::size_t{32} << 20;

void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes > 0 && to != from) std::memmove(to, from, bytes);
}

}  // namespace

std::size_t SharedTransport::chunk_elements(const Call& call) const {
  std::size_t arrays = 1;
  if (call.has_input_blocks()) arrays = static_cast<std::size_t>(ranks_);
  if (call.tree != nullptr) arrays = static_cast<std::size_t>(call.tree->most);
  const std::size_t unit = kAlignment / call.element_size();
  const std::size_t fits = SharedSpace::kBounceBytes / (arrays * call.element_size());
  return std::max(fits / unit * unit, unit);
}

// Whether peers fetch what is private, where they can. Not what one chunk holds: a fetch costs a
// microsecond. Not a `reduce`, where ranks other than the root have no memory for the slice that
// they reduce. What the others bring to a slice must fit both bounce buffers of this rank.
bool SharedTransport::is_fetched(const Call& call) const {
  const std::size_t lines = chunk_ * call.element_size() / kAlignment;
  return space_->fetches() && call.record.kind != CallKind::reduce &&
         static_cast<std::size_t>(call.longest) > chunk_ && lines >= at(ranks_);
}

// The elements of a chunk of this rank's input that no peer reads.
Slice SharedTransport::read_by_none(const Call& call, Slice chunk) const {
  if (call.reduces_whole()) return slice_in(call, chunk, rank_);
  if (call.record.kind == CallKind::reduce_scatter_tree) {
    return intersection(call.block(rank_), chunk);
  }
  return {chunk.begin, chunk.begin};
}

// The bounce buffer holds a chunk of each block or of each partial sum, or of the tensors of a
// group in a row: what peers read of it.
void SharedTransport::stage_in(const Call& call, Slice chunk) {
  if (!record(rank_).staged_input) return;
  const std::size_t size = call.element_size();
  std::byte* to = space_->bounce_in(rank_);
  // Elements `wanted` of an array that begins at element `first` of the call.
  const auto copy = [&](std::size_t place, const std::byte* from, std::size_t first, Slice wanted) {
    const std::size_t begin = wanted.begin - chunk.begin;
    if (wanted.size() == 0) return;
    copy_bytes(to + (place + begin) * size, from + (wanted.begin - first) * size,
               wanted.size() * size);
  };
  if (call.has_input_blocks()) {
    for (int i = 0; i < ranks_; ++i) {
      const Slice wanted = clip(call.block(i), chunk);
      if (i == rank_) continue;
      copy_bytes(to + at(i) * chunk_ * size, call.inputs[0] + wanted.begin * size,
                 wanted.size() * size);
    }
    return;
  }
  const Slice own = read_by_none(call, chunk);
  for (const Slice read : {Slice{chunk.begin, own.begin}, Slice{own.end, chunk.end}}) {
    for (int i = 0; i < call.input_count; ++i) {
      const auto elements = static_cast<std::size_t>(call.input_elements);
      const Slice all = call.is_group() ? call.part(i) : Slice{0, elements};
      const std::size_t place = call.is_group() ? 0 : at(i) * chunk_;
      copy(place, call.inputs[at(i)], all.begin, intersection(all, read));
    }
  }
}

// What the others have reduced; its own slice this rank has written where it belongs.
void SharedTransport::stage_out(const Call& call, Slice chunk) {
  if (!record(rank_).staged_output) return;
  const std::size_t size = call.element_size();
  const Slice own = slice_in(call, chunk, rank_);
  for (const Slice made : {Slice{chunk.begin, own.begin}, Slice{own.end, chunk.end}}) {
    for (int i = 0; i < call.parts(); ++i) {
      const Slice part = call.part(i), both = intersection(part, made);
      if (both.size() == 0) continue;
      copy_out(call, call.outputs[at(i)] + (both.begin - part.begin) * size,
               space_->bounce_out(rank_) + (both.begin - chunk.begin) * size, both.size() * size);
    }
  }
}

// Whether this rank must fetch from there.
bool SharedTransport::is_apart(int rank, const Location& location) const {
  return rank != rank_ && record(rank).apart && location.region == kPrivate;
}

void SharedTransport::fetch(const Call& call, int rank, std::byte* to, const std::byte* from,
                            std::size_t bytes) {
  if (space_->fetch(rank, to, from, bytes)) return;
  // One that has ended, and that nobody has waited for yet, can still be sent signals.
  const bool gone = errno == ESRCH || !space_->alive(rank);
  throw_if_failed();
  fail(peer_cause(cat(watch_.names[at(rank)],
                      gone ? " is gone, waited for in " : " has memory that cannot be read, in ",
                      short_name(beyond_ != nullptr ? beyond_->call() : call.record), "; ",
                      last_of(rank))));
}

// Elements of which this rank's bounce buffers hold what all others bring. A rank's block may be
// all of a chunk.
std::size_t SharedTransport::brought_at_once(const Call& call) const {
  const std::size_t unit = kAlignment / call.element_size();
  const std::size_t others = at(std::max(call.tree->reduce.sources, 1)) * call.element_size();
  return std::max(2 * SharedSpace::kBounceBytes / others / unit * unit, unit);
}

// A rank's input as this rank can read it.
const std::byte* SharedTransport::bring(const Call& call, int rank, int index,
                                        const std::byte* from, std::size_t elements) {
  if (!is_apart(rank, record(rank).inputs[at(index)])) return from;
  const std::size_t bytes = elements * call.element_size();
  std::byte* to = space_->bounce_in(rank_) + brought_;
  brought_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  fetch(call, rank, to, from, bytes);
  return to;
}

// The end of an all-reduce in which every rank has reduced its slices into its own output only. One
// meeting more; a rank has then read N bytes and written N, and (n-1)/n N through the kernel into
// its caches, where it reduced them.
void SharedTransport::fetch_slices(const Call& call) {
  const std::size_t size = call.element_size(), end = call.count();
  for (int k = 1; k < ranks_; ++k) {
    const int r = (rank_ + k) % ranks_;
    for (std::size_t begin = 0; begin < end; begin += chunk_) {
      const Slice slice = slice_in(call, {begin, std::min(end, begin + chunk_)}, r);
      for (int i = 0; i < call.parts(); ++i) {
        const Slice part = intersection(call.part(i), slice);
        if (part.size() == 0) continue;
        std::byte* to = output(rank_, i, call, part.begin);
        const std::byte* from = output(r, i, call, part.begin);
        if (is_apart(r, record(r).outputs[at(i)])) {
          fetch(call, r, to, from, part.size() * size);
        } else {
          copy_bytes(to, from, part.size() * size);
        }
      }
    }
  }
}

bool SharedTransport::streams(const Call& call) const {
  const std::size_t blocks = call.reduces_whole() || call.record.kind == CallKind::broadcast
                                 ? 1
                                 : static_cast<std::size_t>(ranks_);
  const std::size_t array = static_cast<std::size_t>(call.longest) * blocks * call.element_size();
  return array * static_cast<std::size_t>(ranks_) >= kStreamBytes;
}

// To this rank's own output, of which lines that are an input, too, are in the caches already.
void SharedTransport::copy_out(const Call& call, std::byte* to, const std::byte* from,
                               std::size_t bytes) const {
  if (!streams(call) || (call.reduces_whole() && call.output() == call.inputs[0])) {
    return copy_bytes(to, from, bytes);
  }
  if (to != from) stream_copy(to, from, bytes);
}

}  // namespace peal
