// Small all-reduces among ranks that can read each other's memory.
#include <algorithm>
#include <cstring>
#include <tuple>

#include "comm/index.h"
#include "comm/shared.h"

namespace peal {
namespace {

constexpr int kBriskLooks = 64, kLooksWithMutex = 256;

// Sizes that the compiler knows are copied without a call.
void copy_part(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes == sizeof(Mail::Line::bytes)) {
    std::memcpy(to, from, sizeof(Mail::Line::bytes));
  } else if (bytes == Mail::kFirst) {
    std::memcpy(to, from, Mail::kFirst);
  } else if (bytes == Mail::kDigest) {
    std::memcpy(to, from, Mail::kDigest);
  } else {
    std::memcpy(to, from, bytes);
  }
}

// Calls f(part of a line, bytes done before, bytes) for the lines that [at, at + bytes) is in.
template <typename Lines, typename F>
void for_each_line(Lines& lines, std::size_t at, std::size_t bytes, F f) {
  constexpr std::size_t kBytes = sizeof(Mail::Line::bytes);
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t place = (at + done) % kBytes, some = std::min(kBytes - place, bytes - done);
    f(&lines[(at + done) / kBytes].bytes[place], done, some);
    done += some;
  }
}

// Takes cache lines from the peers that have read them, so that the next call need not wait for
// them. Nothing is written.
void claim(const void* memory, std::size_t bytes) {
#if defined(__x86_64__)
  const auto* line = static_cast<const std::byte*>(memory);
  for (std::size_t i = 0; i < bytes; i += 64) asm volatile("prefetchw %0" : : "m"(line[i]));
#endif
}

}  // namespace

static_assert(Mail::lines_of(Mail::kPayload) == std::tuple_size_v<decltype(Mail::lines)>);

std::uint64_t Mail::digest() const {
  std::uint64_t digest = 0;
  get(0, reinterpret_cast<std::byte*>(&digest), kDigest);
  return digest;
}

void Mail::put(std::size_t at, const std::byte* from, std::size_t bytes) {
  for_each_line(lines, at, bytes, [&](std::byte* line, std::size_t done, std::size_t some) {
    copy_part(line, from + done, some);
  });
}

void Mail::get(std::size_t at, std::byte* to, std::size_t bytes) const {
  for_each_line(lines, at, bytes, [&](const std::byte* line, std::size_t done, std::size_t some) {
    copy_part(to + done, line, some);
  });
}

bool SharedTransport::is_small(const Call& call) const {
  if (call.only_meets) return false;
  std::size_t inputs = 1;
  if (call.record.kind == CallKind::all_reduce_tree) {
    inputs = static_cast<std::size_t>(call.tree->most);
  } else if (call.record.kind != CallKind::all_reduce || call.is_group()) {
    return false;
  }
  return inputs * call.count() * call.element_size() <= most_mail_;
}

std::size_t SharedTransport::mail_bytes(const Call& call, int rank) const {
  const std::size_t inputs = call.tree != nullptr ? at(call.tree->count(rank)) : 1;
  return inputs * call.count() * call.element_size();
}

// Inputs are copied into the mail, where they stay as they are until all ranks have come to the
// next call; every rank reduces all slices for itself, in the order of their owners. 1 meeting; a
// rank reads n N bytes (n p N with p partial sums a rank) and writes N, and p N for the mail.
void SharedTransport::begin_small(const Call& call) {
  if (!is_small(call)) return;
  begun_ = true;
  ++sequence_;
  Mail& mine = space_->state(rank_).mail[sequence_ % 2];
  const std::size_t bytes = call.count() * call.element_size();
  const std::size_t lines = Mail::lines_of(mail_bytes(call, rank_));
  post_record(call);
  // The first line is whole before it says so: peers may read it at once.
  for (int i = 0; i < call.input_count; ++i) {
    const std::size_t place = at(i) * bytes;
    if (place >= Mail::kFirst) break;
    mine.put(Mail::kDigest + place, call.inputs[at(i)], std::min(bytes, Mail::kFirst - place));
  }
  arrive();
  for (int i = 0; i < call.input_count; ++i) {
    const std::size_t place = at(i) * bytes;
    const std::size_t done = place < Mail::kFirst ? std::min(bytes, Mail::kFirst - place) : 0;
    mine.put(Mail::kDigest + place + done, call.inputs[at(i)] + done, bytes - done);
  }
  if (lines > 1) mine.lines[lines - 1].arrivals.store(meetings_, std::memory_order_release);
  mailed_[sequence_ % 2] = lines;
  wake_if_last();
}

// After a failure nobody is let through by one that comes late: run() says the cause.
void SharedTransport::begin(const Call& call) {
  if (failure() == nullptr) begin_small(call);
}

bool SharedTransport::end_begun(const Call& call, bool spin) {
  if (!begun_) return false;
  for (int looks = 0; !mail_is_here(call); ++looks) {
    if (!spin || looks == kLooksWithMutex) return false;
  }
  if (failure() != nullptr) return false;
  begun_ = false;
  take_mail(call);
  return true;
}

// All lines of it, and of the call that it is meant for.
bool SharedTransport::mail_is_here(const Call& call) {
  for (int r = 0; r < ranks_; ++r) {
    if (r == rank_) continue;
    if (!here(r) || mail(r).digest() != mail(rank_).digest()) return false;
    const std::size_t last = Mail::lines_of(mail_bytes(call, r)) - 1;
    if (mail(r).lines[last].arrivals.load(std::memory_order_acquire) < meetings_) return false;
  }
  return true;
}

void SharedTransport::finish_small(const Call& call) {
  begun_ = false;
  await(call);
  compare_records();  // or mail that never comes would be waited for
  take_mail(call);
}

void SharedTransport::take_mail(const Call& call) {
  for (int r = 0; r < ranks_; ++r) read_mail(call, r);
  for (int owner = 0; owner < ranks_; ++owner) reduce_mail(call, owner);
  claim_mail();
}

// All ranks have come to this call and so have read the mail of the one before.
void SharedTransport::claim_mail() {
  const std::size_t next = (sequence_ + 1) % 2;
  claim(&space_->state(rank_).mail[next], mailed_[next] * sizeof(Mail::Line));
}

void SharedTransport::read_mail(const Call& call, int rank) {
  const std::size_t bytes = mail_bytes(call, rank);
  if (rank == rank_ || bytes <= Mail::kFirst) return;  // it is at hand
  lines_[at(rank)] = Mail::lines_of(bytes);
  for (int looks = 0; !here(rank); ++looks) {
    if (looks == kBriskLooks) wait_for_all(call);
  }
  lines_[at(rank)] = 1;
  mail(rank).get(Mail::kDigest, &letters_[at(rank) * Mail::kPayload], bytes);
}

const std::byte* SharedTransport::letter(const Call& call, int rank) const {
  if (mail_bytes(call, rank) <= Mail::kFirst) return &mail(rank).lines[0].bytes[Mail::kDigest];
  return &letters_[at(rank) * Mail::kPayload];
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
      const std::byte* whole =
          r == rank_ ? call.inputs[at(i)] : letter(call, r) + at(i) * call.count() * size;
      sources_.push_back(whole + slice.begin * size);
    }
  }
  outputs_.assign(1, call.output() + slice.begin * size);
  const ReducePlan& plan = call.tree != nullptr ? call.tree->reduce : ring ? chain_ : pairs_;
  reducer_.run(plan, call.record.dtype, call.record.op, ranks_, sources_, outputs_, slice.size());
}

}  // namespace peal
