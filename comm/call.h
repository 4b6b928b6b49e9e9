// One call on a Communicator, as it lies in the queue and as ranks compare it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "comm/communicator.h"
#include "comm/reduce.h"
#include "core/device/stream.h"

namespace peal {

enum class CallKind : std::uint8_t {
  all_reduce,
  all_reduce_tree,
  reduce_scatter,
  all_gather,
  broadcast,
  barrier,
  reduce,
  gather,
  scatter,
  all_to_all,
  send,
  recv,
  reduce_scatter_tree  // also a part of an all_reduce over hosts, with a tree over this one's ranks
};
inline constexpr std::size_t kCallKinds = 13;

// What must be the same on every rank. Plain bytes: it is read by other processes.
struct CallRecord {
  // 1 for the first call that all ranks make; send and recv are counted for each pair of ranks.
  std::uint64_t sequence = 0;
  std::uint64_t digest = 0;  // of all below and of the whole name
  // Elements that a rank contributes, or of one block where an array has a block for every rank;
  // the sum over all blocks where their sizes differ.
  std::int64_t count = 0;
  std::int32_t parameter = 0;  // the root, the peer, or the virtual ranks of a tree
  // Blocks of different sizes (ragged counts, the tensors of a group); 0: none. The sizes that a
  // ragged all_to_all has differ between ranks and are compared apart.
  std::int32_t blocks = 0;
  std::uint64_t blocks_digest = 0;
  std::array<std::int64_t, 4> first_blocks{};  // sizes, for messages
  CallKind kind = CallKind::barrier;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::u8;
  Algorithm algorithm = Algorithm::automatic;
  std::array<char, 56> name{};  // longer names are cut here, not in the digest
};

// Partial sums of one rank (2 log2(virtual ranks)), or tensors of one fused call.
inline constexpr int kMaxInputs = 64;

// Where a call's arrays are. A few of many possible ones: a copy takes those in use.
struct CallArrays {
  CallArrays() = default;
  CallArrays(const CallArrays& other) { *this = other; }
  CallArrays& operator=(const CallArrays& other) {
    input_count = other.input_count;
    output_count = other.output_count;
    std::copy_n(other.inputs.begin(), input_count, inputs.begin());
    std::copy_n(other.outputs.begin(), output_count, outputs.begin());
    return *this;
  }

  std::array<const std::byte*, kMaxInputs> inputs;
  std::array<std::byte*, kMaxInputs> outputs;  // of a broadcast: x, except on the root
  int input_count = 0, output_count = 0;
};

// Marks in the streams of a call on device memory: what it comes after, and its own end.
struct CallEvents {
  explicit CallEvents(const Device& device) : begin(device), end(device) {}
  Event begin, end;
  std::uint64_t ticket = 0;  // of the call that has them now
};

struct Call : CallArrays {
  CallRecord record;
  std::int64_t input_elements = 0;  // of each input, but for a group
  std::int64_t longest = 0;         // elements of the longest block, or of the whole array
  const TreePlan* tree = nullptr;   // all_reduce_tree and reduce_scatter_tree only
  // Where the blocks of different sizes lie: block i has elements [bounds[i], bounds[i + 1]). An
  // all_to_all has those of its output behind those of its input.
  const std::int64_t* bounds = nullptr;
  int bound_count = 0;
  bool only_meets = false;  // ranks compare it and meet; its data go another way
  std::uint8_t slot = 0;    // of the queue, where it works on streams of its own

  std::size_t count() const { return static_cast<std::size_t>(record.count); }
  std::size_t element_size() const { return size_of(record.dtype); }
  std::byte* output() const { return output_count > 0 ? outputs[0] : nullptr; }
  bool is_group() const { return record.kind == CallKind::all_reduce && bounds != nullptr; }
  // Whether an element of the output depends on one element of each rank.
  bool reduces_whole() const {
    return record.kind == CallKind::all_reduce || record.kind == CallKind::all_reduce_tree ||
           record.kind == CallKind::reduce;
  }
  // Whether only this rank and the peer make the call.
  bool is_pair() const { return record.kind == CallKind::send || record.kind == CallKind::recv; }
  // One array of all inputs in a row: a group, or the only input.
  int parts() const { return is_group() ? record.blocks : 1; }
  Slice part(int i) const { return is_group() ? block(i) : Slice{0, count()}; }
  // Whether the input has one block for every rank.
  bool has_input_blocks() const {
    return record.kind == CallKind::reduce_scatter || record.kind == CallKind::scatter ||
           record.kind == CallKind::all_to_all;
  }
  // Of an array with a block for every rank: the input, or the output if the input has none.
  Slice block(int i) const {
    if (bounds == nullptr) return {index(i) * count(), (index(i) + 1) * count()};
    return {static_cast<std::size_t>(bounds[i]), static_cast<std::size_t>(bounds[i + 1])};
  }
  // What rank `me` sends to a rank (of its input) and receives from one (in its output),
  // in the calls that move data and reduce nothing.
  Slice outgoing(int me, int to) const;
  Slice incoming(int me, int from) const;

 private:
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }
};

inline Slice intersection(Slice a, Slice b) {
  const std::size_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// The part of `block` that the elements [chunk.begin, chunk.end) of every block are in.
inline Slice clip(Slice block, Slice chunk) {
  const std::size_t size = block.size();
  return {block.begin + std::min(chunk.begin, size), block.begin + std::min(chunk.end, size)};
}

std::string_view name_of(CallKind kind);                   // "all_reduce"
void set_name(CallRecord& record, std::string_view name);  // fills name and digest; call it last
// The same, from what an earlier call got where only the sequence number may differ.
bool set_name_like(CallRecord& record, std::string_view name, const CallRecord& earlier);
std::string short_name(const CallRecord& record);  // all_reduce "bucket 7"
std::string long_name(const CallRecord& record);   // all_reduce "bucket 7" (sum, f32, 692 elements)

// Why a rank left, as it travels to its peers.
struct Cause {
  std::int32_t rank = 0;
  std::int32_t exit_code = 0;
  std::array<char, 128> where{};
  std::array<char, 1024> message{};
};
Cause make_cause(int rank, int exit_code, std::string_view where, std::string_view message);
class Error error_of(const Cause& cause);
[[noreturn]] void throw_cause(const Cause& cause);

// Fills blocks, blocks_digest and first_blocks of a record, and its count.
void set_blocks(CallRecord& record, const std::int64_t* bounds, int blocks);

// Of two ranks: one sends what the other receives.
bool matches(const CallRecord& a, const CallRecord& b);

// What ranks tell each other to find out whether all make the same call: those with the lowest and
// the highest digest among the ranks heard of.
struct Hello {
  CallRecord low, high;
  std::int32_t low_rank = 0, high_rank = 0;

  void merge(const Hello& other) {
    const auto key = [](const CallRecord& c, int rank) { return std::pair(c.digest, rank); };
    if (key(other.low, other.low_rank) < key(low, low_rank)) {
      low = other.low;
      low_rank = other.low_rank;
    }
    if (key(other.high, -other.high_rank) > key(high, -high_rank)) {
      high = other.high;
      high_rank = other.high_rank;
    }
  }
};

// Error(numeric) that names what ranks a and b called; same text whoever throws it.
[[noreturn]] void throw_mismatch(const std::string& name_a, const CallRecord& a,
                                 const std::string& name_b, const CallRecord& b);

}  // namespace peal
