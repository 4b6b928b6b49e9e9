// Small all-reduces among ranks that can read each other's memory.
#include <algorithm>
#include <cstring>

#include "comm/shared.h"

namespace peal {
namespace {

// Takes cache lines from the peers that have read them, so that the next call need not wait for
// them. Nothing is written.
void claim(const void* memory, std::size_t bytes) {
#if defined(__x86_64__)
  const auto* line = static_cast<const std::byte*>(memory);
  for (std::size_t i = 0; i < bytes; i += 64) asm volatile("prefetchw %0" : : "m"(line[i]));
#endif
}

}  // namespace

bool SharedTransport::is_small(const Call& call) const {
  std::size_t inputs = 1;
  if (call.record.kind == CallKind::all_reduce_tree) {
    inputs = static_cast<std::size_t>(call.tree->most);
  } else if (call.record.kind != CallKind::all_reduce || call.is_group()) {
    return false;
  }
  const std::size_t bytes = inputs * call.count() * call.element_size();
  // The more ranks, the more each reads that the owners of slices would have read for it.
  return bytes <= Mail::kPayload && bytes * static_cast<std::size_t>(ranks_) <= 4 * Mail::kPayload;
}

// Inputs are copied into the mail, where they stay as they are until all ranks have come to the
// next call; every rank reduces all slices for itself, in the order of their owners. 1 meeting; a
// rank reads n N bytes (n p N with p partial sums a rank) and writes N, and p N for the mail.
void SharedTransport::run_small(const Call& call) {
  Mail& mine = space_->state(rank_).mail[sequence_ % 2];
  const std::size_t bytes = call.count() * call.element_size();
  post_record(call);
  for (int i = 0; i < call.input_count && bytes > 0; ++i) {
    const auto k = static_cast<std::size_t>(i);
    std::memcpy(mine.payload.data() + k * bytes, call.inputs[k], bytes);
  }
  meet(call);
  compare_records();
  for (int owner = 0; owner < ranks_; ++owner) reduce_mail(call, owner);
  claim(&space_->state(rank_).mail[(sequence_ + 1) % 2],
        sizeof(Mail) - Mail::kPayload + static_cast<std::size_t>(call.input_count) * bytes);
}

void SharedTransport::reduce_mail(const Call& call, int owner) {
  const std::size_t size = call.element_size();
  const Slice slice = slice_of(call.count(), ranks_, owner, size);
  if (slice.size() == 0) return;
  const bool ring = call.tree == nullptr && call.record.algorithm != Algorithm::ordered_tree;
  sources_.clear();
  for (int k = 0; k < ranks_; ++k) {
    const int r = ring ? (owner + 1 + k) % ranks_ : k;
    const int inputs = call.tree != nullptr ? call.tree->count(r) : 1;
    for (int i = 0; i < inputs; ++i) {
      const std::size_t element = static_cast<std::size_t>(i) * call.count() + slice.begin;
      sources_.push_back(mail(r).payload.data() + element * size);
    }
  }
  outputs_.assign(1, call.output() + slice.begin * size);
  const ReducePlan& plan = call.tree != nullptr ? call.tree->reduce : ring ? chain_ : pairs_;
  reducer_.run(plan, call.record.dtype, call.record.op, ranks_, sources_, outputs_, slice.size());
}

}  // namespace peal
