#include "comm/mpi_transport.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/index.h"
#include "comm/message_collectives.h"
#include "comm/small_reduce.h"
#include "core/base/error.h"

namespace peal {
namespace {

constexpr std::size_t kPairBytes = std::size_t{64} << 20;  // of one message; MPI counts in int
// Seconds that a wait keeps its core before it naps: ranks in a short call wake at once.
constexpr double kBusyShort = 0.2e-3, kBusyLong = 0;
constexpr std::size_t kLongBytes = std::size_t{64} << 10;
constexpr double kLook = 20e-3;  // seconds between looks at the processes of this host
constexpr int kNoticeTag = 0, kHelloTag = 1, kPairTag = 2, kDataTag = 8;  // and one for each lane
constexpr int kTagsOfGroup = kDataTag + Messages::kLanes;

// Every MPI call of every transport is made under it: MPI_THREAD_SERIALIZED is a promise of the
// process.
std::mutex& mpi_mutex() {
  static std::mutex mutex;
  return mutex;
}

int first_tag(const MpiChannel& channel, std::int64_t group) {
  const std::int64_t tag = group * kTagsOfGroup;
  if (tag + kTagsOfGroup - 1 > channel.highest_tag) {
    fail_input("MPI", "group ", group, " needs message tag ", tag, "; this MPI library has 0..",
               channel.highest_tag, ": make fewer groups and keep them");
  }
  return static_cast<int>(tag);
}

// What travels beside the data: a rank has failed, or is itself waiting in a call of all, or in
// another one, or no longer.
struct Notice {
  enum Kind : std::int32_t { aborted, waiting, elsewhere, back };
  std::int32_t kind = aborted, rank = 0;
  std::uint64_t sequence = 0;
  Cause cause;
};

class MpiTransport final : public Transport, private Messages, private Beyond {
 public:
  MpiTransport(const Watch& watch, std::shared_ptr<const MpiChannel> channel,
               std::vector<int> in_channel, std::int64_t group, HostShare share, WayChooser ways)
      : watch_(watch),
        ranks_(watch.ranks()),
        rank_(watch.rank),
        channel_(std::move(channel)),
        in_channel_(std::move(in_channel)),
        tag_(first_tag(*channel_, group)),
        waiting_in_(static_cast<std::size_t>(ranks_), 0),
        elsewhere_(static_cast<std::size_t>(ranks_), false),
        ways_(std::move(ways)),
        small_(ranks_, rank_),
        hello_out_(sizeof(Hello) + SmallReduce::kMostBytes),
        hello_in_(hello_out_.size()),
        pair_calls_(static_cast<std::size_t>(ranks_)),
        counts_out_(static_cast<std::size_t>(ranks_)),
        counts_in_(static_cast<std::size_t>(ranks_)),
        collectives_(*this, ranks_, rank_) {
    if (share.space)
      host_.emplace(watch, std::move(share), static_cast<Messages&>(*this),
                    static_cast<Beyond&>(*this));
    const std::lock_guard lock(mpi_);
    listen();
  }
  ~MpiTransport() override;

  void run(const Call& call) override;
  void abort(const Cause& cause) override;
  bool told() override;
  const Cause* failure() override;
  void wait_elsewhere(bool long_since) override;
  std::string_view way(const Call& call) override { return name_of(ways_.way(call)); }

 private:
  void send(const std::byte* from, std::size_t bytes, int to, Lane& lane) override {
    send(from, bytes, to, kDataTag + lane.number, lane);
  }
  void receive(std::byte* to, std::size_t bytes, int from, Lane& lane) override {
    receive(to, bytes, from, kDataTag + lane.number, lane);
  }
  void wait_for_any(const Call& call) override;
  const CallRecord& call() const override { return running_->record; }
  void look(bool late) override;
  void wait_long(bool long_since) override { say_long(*running_, long_since); }

  // Messages of the call in progress.
  void send(const std::byte* from, std::size_t bytes, int to, int tag, Lane& lane);
  void receive(std::byte* to, std::size_t bytes, int from, int tag, Lane& lane);
  MPI_Request& add_request(Lane& lane, int awaited);
  bool poll();
  void drop_messages();

  // Notices.
  void listen();
  void poll_notices();
  void tell_all(const Notice& notice);
  void drop_sent_notices();
  void tell_waiting();
  void say_long(const Call& call, bool long_since);
  bool failed();
  [[noreturn]] void fail_late(const Call& call);
  [[noreturn]] void fail(const Cause& mine) { abort(mine), throw_cause(cause_); }
  [[noreturn]] void fail_peer(const std::string& message) {
    fail(make_cause(rank_, exit_code(ErrorKind::peer), watch_.place(), message));
  }
  bool look_for_gone(const Call& call, bool seen);
  std::string late_ranks() const;
  bool waits_in_call_before(int rank) const {
    return sequence_ > 1 && waiting_in_[at(rank)] == sequence_ - 1;
  }

  void collective(const Call& call, Way way);
  void hello(const Call& call, bool small = false);
  void compare_counts(const Call& call);
  void run_pair(const Call& call);
  int in_channel(int rank) const { return in_channel_[at(rank)]; }
  int around(int rank) const { return (rank % ranks_ + ranks_) % ranks_; }

  const Watch& watch_;
  int ranks_, rank_;
  std::mutex& mpi_ = mpi_mutex();  // guards all below that MPI or a notice touches
  std::shared_ptr<const MpiChannel> channel_;
  std::vector<int> in_channel_;  // by rank: its rank there
  int tag_;                      // the first of this group
  MPI_Request listener_ = MPI_REQUEST_NULL;
  Notice heard_;
  bool failed_ = false;
  Cause cause_;
  std::vector<std::uint64_t> waiting_in_;  // by rank: the last call it said it waits in
  std::vector<bool> elsewhere_;            // by rank: whether it said that it waits in another call
  bool told_waiting_ = false;
  double busy_seconds_ = kBusyShort;
  double between_ends_ = 0;  // of messages: seconds, a mean of late
  struct Sent {
    Notice notice;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  std::list<Sent> notices_;

  // Messages under way; a request that has ended leaves its place to another one.
  struct UnderWay {
    Lane* lane = nullptr;  // null: none
    int awaited = -1;      // the rank a message is due from, or -1
  };
  std::vector<MPI_Request> requests_;
  std::vector<UnderWay> under_way_;  // by request
  std::vector<int> ended_;           // of the last poll
  std::vector<int> free_;
  Lane lane_;
  std::uint64_t sequence_ = 0;
  CallRecord previous_;
  WayChooser ways_;
  SmallReduce small_;
  std::vector<std::byte> hello_out_, hello_in_;
  std::vector<std::uint64_t> pair_calls_;  // by rank
  CallRecord pair_out_, pair_in_;
  std::vector<std::int64_t> counts_out_, counts_in_;  // of a ragged all_to_all, by rank
  MessageCollectives collectives_;
  std::optional<HostPart> host_;  // of ranks that share memory with others
  const Call* running_ = nullptr;
  Standstill standstill_;
};

MpiTransport::~MpiTransport() {
  const std::lock_guard lock(mpi_);
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) return;  // the host program was quicker
  MPI_Cancel(&listener_);
  MPI_Request_free(&listener_);
  drop_sent_notices();
  // To a peer that takes none: MPI reads them as long as the process runs.
  if (!notices_.empty()) new std::list<Sent>(std::move(notices_));
}

void MpiTransport::run(const Call& call) {
  if (!call.is_pair()) ++sequence_;
  told_waiting_ = call.is_pair();  // the others have no part in it
  busy_seconds_ = kBusyShort;
  running_ = &call;
  standstill_.begin();
  try {
    poll();  // a rank may have failed since the last call
    if (failed()) throw_cause(cause_);
    if (call.is_pair()) return run_pair(call);
    const Way way = ways_.way(call);
    const bool small = !call.only_meets && (way == Way::small || way == Way::doubling);
    if (small) small_.begin(call, way == Way::doubling);
    hello(call, small);
    if (failed()) throw_cause(cause_);
    compare_counts(call);
    if (call.count() * call.element_size() >= kLongBytes) busy_seconds_ = kBusyLong;
    small ? small_.finish(call) : collective(call, way);
  } catch (...) {
    drop_messages();
    if (host_) {
      // The first cause goes from the hosts to this one, or from this one to the others.
      if (failed_) host_->shared.abort(cause_);
      if (const Cause* cause = host_->shared.failure()) abort(*cause);
    }
    throw;
  }
  previous_ = call.record;
}

void MpiTransport::collective(const Call& call, Way way) {
  if (call.only_meets) return;
  if (way != Way::hosts_ring && way != Way::hosts_direct) return collectives_.run(call, way);
  host_->update(watch_);
  host_->collectives.run(call, /*around_ring=*/way == Way::hosts_ring);
}

MPI_Request& MpiTransport::add_request(Lane& lane, int awaited) {
  if (free_.empty()) {
    free_.push_back(static_cast<int>(requests_.size()));
    requests_.push_back(MPI_REQUEST_NULL);
    under_way_.emplace_back();
    ended_.resize(requests_.size());
  }
  const std::size_t place = at(free_.back());
  free_.pop_back();
  under_way_[place] = {&lane, awaited};
  ++lane.under_way;
  return requests_[place];
}

void MpiTransport::send(const std::byte* from, std::size_t bytes, int to, int tag, Lane& lane) {
  if (bytes == 0) return;
  const std::lock_guard lock(mpi_);
  check_mpi(MPI_Isend(from, static_cast<int>(bytes), MPI_BYTE, in_channel(to), tag_ + tag,
                      channel_->data, &add_request(lane, -1)),
            watch_.names[at(to)]);
}

void MpiTransport::receive(std::byte* to, std::size_t bytes, int from, int tag, Lane& lane) {
  if (bytes == 0) return;
  const std::lock_guard lock(mpi_);
  check_mpi(MPI_Irecv(to, static_cast<int>(bytes), MPI_BYTE, in_channel(from), tag_ + tag,
                      channel_->data, &add_request(lane, from)),
            watch_.names[at(from)]);
}

void MpiTransport::wait_for_any(const Call& call) {
  Patience patience(watch_);
  double nap = 20e-6, next_look = kLook;
  bool gone = false;
  const double longest = std::clamp(between_ends_ / 4, 50e-6, 200e-6);  // the core is backward's
  while (!poll()) {
    if (!patience.exhausted()) continue;
    const bool late = patience.late();
    if (patience.long_since()) say_long(call, true);
    if (failed()) {
      if (poll()) return;  // the peer that failed has seen this call through
      throw_cause(cause_);
    }
    if (late) fail_late(call);
    if (patience.seconds() >= next_look) {
      gone = look_for_gone(call, gone);
      next_look = patience.seconds() + kLook;
    }
    if (patience.seconds() < busy_seconds_) {
      ::sched_yield();
      continue;
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(nap));
    nap = std::min(nap * 2, longest);
  }
  between_ends_ += (patience.seconds() - between_ends_) / 8;
  if (patience.said_long()) say_long(call, false);
}

// In a wait for ranks of this host: messages with other hosts go on.
void MpiTransport::look(bool late) {
  poll();
  if (failed()) throw_cause(cause_);
  if (late) fail_late(*running_);
}

// Whether messages have ended since the last look.
bool MpiTransport::poll() {
  standstill_.look();
  const std::lock_guard lock(mpi_);
  int ended = 0;
  const int status = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &ended,
                                  ended_.data(), MPI_STATUSES_IGNORE);
  if (status != MPI_SUCCESS) check_mpi(status, watch_.place());  // a text: not in each look
  if (ended == MPI_UNDEFINED) ended = 0;
  for (int i = 0; i < ended; ++i) {
    UnderWay& message = under_way_[at(ended_[at(i)])];
    --message.lane->under_way;
    message = {};
    free_.push_back(ended_[at(i)]);
  }
  poll_notices();
  return ended > 0;
}

// After a failure, so that no late message lands in memory that its owner takes back.
void MpiTransport::drop_messages() {
  const std::lock_guard lock(mpi_);
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    UnderWay& message = under_way_[i];
    if (message.lane == nullptr) continue;
    if (message.awaited >= 0) MPI_Cancel(&requests_[i]);
    MPI_Request_free(&requests_[i]);
    --message.lane->under_way;
    message = {};
    free_.push_back(static_cast<int>(i));
  }
  collectives_.reset();
  if (host_) host_->collectives.reset();
}

void MpiTransport::listen() {
  check_mpi(MPI_Irecv(&heard_, sizeof heard_, MPI_BYTE, MPI_ANY_SOURCE, tag_ + kNoticeTag,
                      channel_->control, &listener_),
            "MPI control messages");
}

void MpiTransport::poll_notices() {
  for (;;) {
    int done = 0;
    check_mpi(MPI_Test(&listener_, &done, MPI_STATUS_IGNORE), "MPI control messages");
    if (done == 0) return;
    if (heard_.kind == Notice::waiting) {
      waiting_in_[at(heard_.rank)] = heard_.sequence;
    } else if (heard_.kind != Notice::aborted) {
      elsewhere_[at(heard_.rank)] = heard_.kind == Notice::elsewhere;
    } else if (!failed_) {
      failed_ = true;
      cause_ = heard_.cause;
    }
    listen();
  }
}

void MpiTransport::tell_all(const Notice& notice) {
  drop_sent_notices();
  for (int r = 0; r < ranks_; ++r) {
    if (r == rank_) continue;
    Sent& sent = notices_.emplace_back();
    sent.notice = notice;
    MPI_Isend(&sent.notice, sizeof notice, MPI_BYTE, in_channel(r), tag_ + kNoticeTag,
              channel_->control, &sent.request);
  }
}

void MpiTransport::drop_sent_notices() {
  std::erase_if(notices_, [](Sent& sent) {
    int done = 0;
    MPI_Test(&sent.request, &done, MPI_STATUS_IGNORE);
    return done != 0;
  });
}

void MpiTransport::tell_waiting() {
  if (told_waiting_) return;
  told_waiting_ = true;
  const std::lock_guard lock(mpi_);
  tell_all({Notice::waiting, rank_, sequence_, {}});
}

// Half of the deadline has passed in `call`, or that is over.
void MpiTransport::say_long(const Call& call, bool long_since) {
  if (call.is_pair()) {
    wait_elsewhere(long_since);
  } else if (long_since) {
    tell_waiting();
  }
  watch_.say_waiting(*this, long_since);
}

void MpiTransport::wait_elsewhere(bool long_since) {
  const std::lock_guard lock(mpi_);
  tell_all({long_since ? Notice::elsewhere : Notice::back, rank_, 0, {}});
}

const Cause* MpiTransport::failure() {
  const std::lock_guard lock(mpi_);
  if (!failed_) poll_notices();
  return failed_ ? &cause_ : nullptr;
}

void MpiTransport::abort(const Cause& cause) {
  {
    const std::lock_guard lock(mpi_);
    if (failed_) return;
    failed_ = true;
    cause_ = cause;
    tell_all({Notice::aborted, rank_, 0, cause});
  }
  if (host_) host_->shared.abort(cause);
}

bool MpiTransport::told() {
  const std::lock_guard lock(mpi_);
  drop_sent_notices();
  return notices_.empty();
}

// Whether a rank has failed. Answers peers that wait in this call, too.
bool MpiTransport::failed() {
  bool asked = false;
  {
    const std::lock_guard lock(mpi_);
    if (failed_) return true;
    for (const std::uint64_t sequence : waiting_in_) asked = asked || sequence == sequence_;
  }
  if (watch_.closing.load(std::memory_order_relaxed)) {
    throw Error(ErrorKind::peer, watch_.place(), "left in the middle of a call");
  }
  if (watch_.family_failure(*this) != nullptr) return true;
  if (asked) tell_waiting();
  return false;
}

void MpiTransport::fail_late(const Call& call) {
  const std::string stopped = standstill_.blame(watch_);
  const std::string late = !stopped.empty() ? stopped
                           : call.is_pair()
                               ? cat(watch_.names[at(call.record.parameter)], " has not answered")
                               : late_ranks();
  fail_peer(late_message(watch_, call.record, late));
}

// Whether a process has ended, of this host or alone on another: the others would learn it from the
// deadline only, and Slurm ends all ranks a second after one. What it said last comes before it is
// `seen` again.
bool MpiTransport::look_for_gone(const Call& call, bool seen) {
  if (const Cause* cause = host_ ? host_->shared.failure() : nullptr) throw_cause(*cause);
  const std::string* name = nullptr;
  if (const int here = host_ ? host_->shared.gone() : -1; here >= 0) {
    name = &host_->watch.names[at(here)];
  }
  if (const int away = channel_->gone(in_channel_); away >= 0) name = &watch_.names[at(away)];
  if (name == nullptr || !seen) return name != nullptr;
  fail_peer(cat(*name, " is gone, waited for in ", short_name(call.record)));
}

// A rank that waits in this call said so. The others are not in it, but all have been in the call
// before, or we were not here: that is the last they finished.
std::string MpiTransport::late_ranks() const {
  const std::lock_guard lock(mpi_);
  constexpr int kNamed = 4;
  std::string text;
  int late = 0, elsewhere = 0;
  const auto add = [&](bool waited_before) {
    for (int r = 0; r < ranks_; ++r) {
      if (r == rank_ || waiting_in_[at(r)] >= sequence_) continue;
      if (elsewhere_[at(r)]) {
        ++elsewhere;
      } else if (waited_before == waits_in_call_before(r) && ++late <= kNamed) {
        text += cat(late > 1 ? "; " : "", last_finished(watch_.label(r), previous_.name.data()));
      }
    }
  };
  // A rank that waited for others in the call before, which we have left, may do so still.
  add(/*waited_before=*/false);
  if (late == 0) add(/*waited_before=*/true);
  if (late > kNamed) text += cat("; and ", late - kNamed, " more");
  if (late > 0) return text;
  if (elsewhere > 0) return std::string(kAllElsewhere);
  for (const UnderWay& message : under_way_) {
    if (message.awaited < 0) continue;
    return cat("data of ", watch_.label(message.awaited), " have not come");
  }
  return "data sent have not been taken";
}

// Do all ranks make the same call? ceil(log2 n) steps of 2 call records each. Also what a barrier
// is. The inputs of a `small` call travel behind the records, as long as all agree.
void MpiTransport::hello(const Call& call, bool small) {
  Hello mine;
  mine.low = mine.high = call.record;
  mine.low.sequence = mine.high.sequence = sequence_;
  mine.low_rank = mine.high_rank = rank_;
  for (int distance = 1; distance < ranks_; distance *= 2) {
    const bool agreed = mine.low.digest == mine.high.digest;
    const std::span<const std::byte> out =
        small && agreed ? small_.outgoing(distance) : std::span<const std::byte>();
    std::memcpy(hello_out_.data(), &mine, sizeof mine);
    if (!out.empty()) std::memcpy(hello_out_.data() + sizeof mine, out.data(), out.size());
    send(hello_out_.data(), sizeof mine + out.size(), small_.to(distance), kHelloTag, lane_);
    receive(hello_in_.data(), hello_in_.size(), small_.from(distance), kHelloTag, lane_);
    finish(call, lane_);
    Hello theirs;
    std::memcpy(&theirs, hello_in_.data(), sizeof theirs);
    mine.merge(theirs);
    if (!small || mine.low.digest != mine.high.digest) continue;
    const std::span<std::byte> in = small_.incoming(distance);
    std::memcpy(in.data(), hello_in_.data() + sizeof theirs, in.size());
    small_.arrived(call, distance);
  }
  if (mine.low.digest == mine.high.digest) return;
  if (mine.low_rank > mine.high_rank) {
    std::swap(mine.low, mine.high);
    std::swap(mine.low_rank, mine.high_rank);
  }
  throw_mismatch(watch_.names[at(mine.low_rank)], mine.low, watch_.names[at(mine.high_rank)],
                 mine.high);
}

// What any two ranks say of each other in a ragged all_to_all: 1 step of n - 1 numbers, and another
// hello, through which no rank comes before all have found their own counts right.
void MpiTransport::compare_counts(const Call& call) {
  if (call.record.kind != CallKind::all_to_all || call.bounds == nullptr) return;
  for (int k = 1; k < ranks_; ++k) {
    const int to = around(rank_ + k), from = around(rank_ - k);
    std::int64_t &out = counts_out_[at(to)], &in = counts_in_[at(from)];
    out = static_cast<std::int64_t>(call.outgoing(rank_, to).size());
    send(reinterpret_cast<const std::byte*>(&out), sizeof out, to, lane_);
    receive(reinterpret_cast<std::byte*>(&in), sizeof in, from, lane_);
  }
  counts_in_[at(rank_)] = static_cast<std::int64_t>(call.outgoing(rank_, rank_).size());
  finish(call, lane_);
  for (int from = 0; from < ranks_; ++from) {
    const auto expected = static_cast<std::int64_t>(call.incoming(rank_, from).size());
    const std::int64_t sent = counts_in_[at(from)];
    if (sent == expected) continue;
    CallRecord record = call.record;
    record.sequence = sequence_;
    fail(count_mismatch(watch_, record, {from, rank_}, sent, expected));
  }
  hello(call);
}

// The two ranks exchange what they call, then the data goes: 2 steps of the sender, N bytes.
void MpiTransport::run_pair(const Call& call) {
  const int peer = call.record.parameter;
  pair_out_ = call.record;
  pair_out_.sequence = ++pair_calls_[at(peer)];
  send(reinterpret_cast<const std::byte*>(&pair_out_), sizeof pair_out_, peer, kPairTag, lane_);
  receive(reinterpret_cast<std::byte*>(&pair_in_), sizeof pair_in_, peer, kPairTag, lane_);
  finish(call, lane_);
  if (!matches(pair_out_, pair_in_)) fail(pair_mismatch(watch_, pair_out_, pair_in_));
  if (call.only_meets) return;
  const std::size_t bytes = call.count() * call.element_size();
  if (bytes >= kLongBytes) busy_seconds_ = kBusyLong;
  for (std::size_t begin = 0; begin < bytes; begin += kPairBytes) {
    const std::size_t some = std::min(kPairBytes, bytes - begin);
    if (call.record.kind == CallKind::send) {
      send(call.inputs[0] + begin, some, peer, kPairTag, lane_);
    } else {
      receive(call.output() + begin, some, peer, kPairTag, lane_);
    }
    finish(call, lane_);
  }
}

}  // namespace

std::unique_ptr<Transport> make_mpi_transport(const Watch& watch,
                                              std::shared_ptr<const MpiChannel> channel,
                                              std::vector<int> ranks, std::int64_t group,
                                              HostShare share, WayChooser ways) {
  return std::make_unique<MpiTransport>(watch, std::move(channel), std::move(ranks), group,
                                        std::move(share), std::move(ways));
}

}  // namespace peal
