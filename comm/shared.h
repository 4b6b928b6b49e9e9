// Collectives among ranks that can read and write each other's memory: the threads of one process
// or the processes of one host.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "comm/reduce.h"
#include "comm/transport.h"

namespace peal {

// Where a rank's memory is, in terms that every rank understands.
struct Location {
  std::int64_t region = 0;   // kPrivate: see below; otherwise the space decides
  std::uint64_t offset = 0;  // bytes into the region
};
// Memory that peers cannot map; `offset` is the address in the rank's own process.
inline constexpr std::int64_t kPrivate = -2;

// What peers look at first; all that a small call needs, in one cache line if it is small enough.
// The first line says that the rank has come and the last one used that all of them are there, so
// that the first travels while the others are written.
struct Mail {
  struct alignas(64) Line {
    std::array<std::byte, 56> bytes;
    std::atomic<std::uint64_t> arrivals{0};  // meetings this rank has come to
  };
  static constexpr std::size_t kDigest = sizeof(std::uint64_t);         // the call's, first of all
  static constexpr std::size_t kFirst = sizeof(Line::bytes) - kDigest;  // payload of the first line
  static constexpr std::size_t kPayload = 2048;
  static constexpr std::size_t lines_of(std::size_t payload) {
    return (kDigest + payload + sizeof(Line::bytes) - 1) / sizeof(Line::bytes);
  }

  std::array<Line, 37> lines;

  std::uint64_t digest() const;
  // Bytes [at, at + bytes) of digest and payload in a row.
  void put(std::size_t at, const std::byte* from, std::size_t bytes);
  void get(std::size_t at, std::byte* to, std::size_t bytes) const;
};

struct SharedRecord {
  // In cache lines of its own: peers read it only where calls differ, and a line that no peer has
  // read is written without waiting for one.
  CallRecord call;
  alignas(64) bool staged_input = false;
  bool staged_output = false;  // copied through the bounce buffer
  bool apart = false;          // some of it private, for peers to fetch
  std::array<Location, kMaxInputs> inputs, outputs;
  std::int64_t longest = 0;  // of Call; in a ragged all_to_all it differs between ranks
};

// What rank a tells rank b in a send or recv between them.
struct alignas(64) PairState {
  std::atomic<std::uint64_t> posted{0};  // calls with that rank that this one has come to
  std::atomic<std::uint64_t> filled{0};  // chunks ready for that rank, of all calls
  std::atomic<std::uint64_t> taken{0};   // chunks of that rank that this one has copied
  struct Record {
    CallRecord call;
    bool staged = false;
    Location input;  // of a send
  };
  // As in RankState: the call after next begins when this one has ended on both sides.
  Record records[2];
};

struct alignas(64) RankState {
  // The call of sequence number s is in mail[s % 2] and records[s % 2]: a rank writes the next call
  // while slower ones still read this one, but never the one after, which takes a meeting between.
  Mail mail[2];
  std::atomic<bool> left{false};         // it has destroyed its communicator
  std::atomic<bool> elsewhere{false};    // it has waited for long in another call
  std::atomic<std::int64_t> process{0};  // id; 0: not known
  std::atomic<std::uint64_t> probe{0};   // address in it of what peers try to read
  std::atomic<std::uint32_t> bell{0};    // rung by the peer of a send or recv; a futex
  std::atomic<std::uint32_t> listening{0};
  SharedRecord records[2];
};

struct alignas(64) Control {
  alignas(64) std::atomic<std::uint32_t> wakes{0};  // a futex: changes when sleepers shall look
  std::atomic<std::uint32_t> sleepers{0};
  alignas(64) std::atomic<std::uint32_t> aborted{0};  // 0: no, 1: being written, 2: see `cause`
  Cause cause;
};

// Those who sleep in a meeting look again.
void wake_sleepers(Control& control);

// The memory that ranks share: one control block with everybody's state and bounce buffers, and
// whatever user memory can be shared.
class SharedSpace {
 public:
  static constexpr std::size_t kBounceBytes = std::size_t{256} << 10;  // in, and as much out
  static std::size_t bytes(int ranks);

  virtual ~SharedSpace() = default;

  Control& control() const { return *reinterpret_cast<Control*>(base_); }
  RankState& state(int rank) const;
  // Call::bounds of a rank in a ragged all_to_all; two of them, as of records.
  std::int64_t* bounds(int rank, std::uint64_t sequence) const;
  PairState& pair(int rank, int peer) const;
  std::byte* bounce_in(int rank) const;
  std::byte* bounce_out(int rank) const { return bounce_in(rank) + kBounceBytes; }
  int ranks() const { return ranks_; }

  // Whether peers can reach [data, data + bytes) of this rank, and where it is for them.
  virtual bool locate(const std::byte* data, std::size_t bytes, Location& location) const = 0;
  virtual std::byte* resolve(int rank, const Location& location) const = 0;
  // Whether ranks can read each other's private memory, and one does: the bytes at an address of
  // that rank's. False when it could not; errno ESRCH: that rank's process has ended.
  virtual bool fetches() const { return false; }
  virtual bool fetch(int, std::byte*, const std::byte*, std::size_t) const { return false; }
  // False when the process of that rank is gone.
  virtual bool alive(int rank) const = 0;

 protected:
  // `base`: zeroed memory of bytes(ranks), the same for every rank. The first user constructs.
  void attach(std::byte* base, int ranks, bool construct);

 private:
  std::byte* base_ = nullptr;
  int ranks_ = 0;
};

// Threads of one process: all memory is shared.
std::shared_ptr<SharedSpace> make_thread_space(int ranks);

// What a rank that waits for those of its host must look at, too, where calls in shared memory are
// part of one over several hosts.
class Beyond {
 public:
  virtual const CallRecord& call() const = 0;  // the whole one, for messages
  // Now and then in a wait. Throws when a rank of another host has failed, or it is `late`.
  virtual void look(bool late) = 0;
  virtual void wait_long(bool long_since) = 0;  // half of the deadline has passed; or that is over

 protected:
  ~Beyond() = default;
};

class SharedTransport final : public Transport {
 public:
  // With `beyond` it decides how long waits may be. `most_mail`: inputs of so many bytes, and no
  // more than fit, go by mail (cost_model.h).
  SharedTransport(std::shared_ptr<SharedSpace> space, const Watch& watch, std::size_t most_mail,
                  Beyond* beyond = nullptr);
  ~SharedTransport() override;

  void begin(const Call& call) override;
  bool end_begun(const Call& call, bool spin) override;
  void run(const Call& call) override;
  void abort(const Cause& cause) override;
  const Cause* failure() override;
  // A rank whose process has ended before it destroyed its communicator; -1: none.
  int gone() const;
  void wait_elsewhere(bool long_since) override;
  std::string_view way(const Call& call) override {
    return name_of(is_small(call) ? Way::mail : Way::slices);
  }

 private:
  void throw_if_failed();
  bool has_left(int rank);
  void post_record(const Call& call);
  void post(const Call& call);
  void meet(const Call& call);  // until every rank has come as far
  void arrive();                // the first half of a meeting
  void wake_if_last();
  void await(const Call& call);
  bool here(int rank) const;
  bool all_here() const;
  void wait_for_all(const Call& call);
  void say_waiting(bool long_since);
  void check_failures(const Call& call, bool late);
  void compare_records();
  void compare_counts(const Call& call);
  [[noreturn]] void fail(const Cause& cause);  // tells the peers too
  Cause peer_cause(const std::string& message) const;
  std::string late_ranks() const;
  std::string last_of(int rank) const;

  // Private memory (shared_private.cpp).
  std::size_t chunk_elements(const Call& call) const;
  bool is_fetched(const Call& call) const;
  Slice read_by_none(const Call& call, Slice chunk) const;
  void stage_in(const Call& call, Slice chunk);
  void stage_out(const Call& call, Slice chunk);
  bool is_apart(int rank, const Location& location) const;
  void fetch(const Call& call, int rank, std::byte* to, const std::byte* from, std::size_t bytes);
  const std::byte* bring(const Call& call, int rank, int index, const std::byte* from,
                         std::size_t elements);
  void fetch_slices(const Call& call);
  bool streams(const Call& call) const;
  void copy_out(const Call& call, std::byte* to, const std::byte* from, std::size_t bytes) const;

  void work(const Call& call, Slice chunk);
  void reduce(const Call& call, Slice chunk);
  void reduce_part(const Call& call, int part, Slice elements);
  Slice slice_in(const Call& call, Slice chunk, int rank) const;
  void collect_sources(const Call& call, int part, Slice elements, bool ring);
  void reduce_scatter_tree(const Call& call, Slice chunk);
  std::size_t brought_at_once(const Call& call) const;
  void reduce_scatter(const Call& call, Slice chunk);
  void pull(const Call& call, Slice chunk);

  // Send and recv (shared_pair.cpp).
  void run_pair(const Call& call);
  void post_pair(const Call& call);
  void send(const Call& call);
  void recv(const Call& call);
  void ring(int peer);
  void say_long(bool long_since);
  void wait_pair(const Call& call, const std::atomic<std::uint64_t>& theirs, std::uint64_t goal);
  void check_pair(const Call& call, const std::atomic<std::uint64_t>& theirs, std::uint64_t goal,
                  Patience& patience);

  // Small all-reduces (shared_small.cpp).
  bool is_small(const Call& call) const;
  void begin_small(const Call& call);
  void finish_small(const Call& call);
  bool mail_is_here(const Call& call);
  void take_mail(const Call& call);
  void claim_mail();
  std::size_t mail_bytes(const Call& call, int rank) const;
  void read_mail(const Call& call, int rank);
  const std::byte* letter(const Call& call, int rank) const;
  void reduce_mail(const Call& call, int owner);

  const Mail& mail(int rank) const { return space_->state(rank).mail[sequence_ % 2]; }
  const SharedRecord& record(int rank) const;
  const std::byte* input(int rank, int index, const Call& call, std::size_t element) const;
  const std::byte* input_block(int rank, const Call& call, Slice chunk) const;
  std::byte* output(int rank, int index, const Call& call, std::size_t element) const;
  std::byte* reach(int rank, const Location& location) const;

  std::shared_ptr<SharedSpace> space_;
  const Watch& watch_;
  Beyond* beyond_;
  std::size_t most_mail_;
  int ranks_, rank_;
  std::uint64_t sequence_ = 0;
  std::uint64_t meetings_ = 0;
  std::chrono::steady_clock::time_point left_since_{};  // when a peer was first seen to have left
  bool begun_ = false;                                  // the next call, which is a small one
  std::array<std::size_t, 2> mailed_{1, 1};             // lines
  std::size_t chunk_ = 0;    // elements of the call in progress that fit the bounce buffer
  bool apart_ = false;       // that some rank's memory is to be fetched in it
  std::size_t brought_ = 0;  // bytes of the bounce buffers that hold what was fetched
  ReducePlan chain_, pairs_;
  Reducer reducer_;
  std::vector<const std::byte*> sources_;
  std::vector<std::byte*> outputs_;
  std::vector<std::size_t> lines_;  // by rank: of its mail, those that a meeting waits for
  std::vector<std::byte> letters_;  // by rank: payloads, each kPayload bytes
  struct Peer {
    std::uint64_t calls = 0;               // send and recv with it
    std::uint64_t sent = 0, received = 0;  // chunks
  };
  std::vector<Peer> peers_;  // by rank
};

}  // namespace peal
