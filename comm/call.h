// One call on a Communicator, as it lies in the queue and as ranks compare it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "comm/reduce.h"

namespace peal {

enum class CallKind : std::uint8_t {
  all_reduce,
  all_reduce_tree,
  reduce_scatter,
  all_gather,
  broadcast,
  barrier
};

// What must be the same on every rank. Plain bytes: it is read by other processes.
struct CallRecord {
  std::uint64_t sequence = 0;  // 1 for the first call
  std::uint64_t digest = 0;    // of all below and of the whole name
  std::int64_t count = 0;      // elements that a rank contributes; of y for reduce_scatter
  std::int32_t parameter = 0;  // the root of a broadcast, the virtual ranks of a tree
  CallKind kind = CallKind::barrier;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::u8;
  Algorithm algorithm = Algorithm::automatic;
  std::array<char, 56> name{};  // longer names are cut here, not in the digest
};

inline constexpr int kMaxInputs = 64;  // partial sums of one rank: 2 log2(virtual ranks)

struct Call {
  CallRecord record;
  std::array<const std::byte*, kMaxInputs> inputs;  // of which input_count are set
  int input_count = 0;
  std::byte* output = nullptr;     // of a broadcast: x, except on the root
  const TreePlan* tree = nullptr;  // all_reduce_tree only

  std::size_t count() const { return static_cast<std::size_t>(record.count); }
  std::size_t element_size() const { return size_of(record.dtype); }
};

void set_name(CallRecord& record, std::string_view name);  // fills name and digest; call it last
std::string short_name(const CallRecord& record);          // all_reduce "bucket 7"
std::string long_name(const CallRecord& record);  // all_reduce "bucket 7" (sum, f32, 692 elements)

// Why a rank left, as it travels to its peers.
struct Cause {
  std::int32_t rank = 0;
  std::int32_t exit_code = 0;
  std::array<char, 128> where{};
  std::array<char, 1024> message{};
};
Cause make_cause(int rank, int exit_code, std::string_view where, std::string_view message);
[[noreturn]] void throw_cause(const Cause& cause);

// Error(numeric) that names what ranks a and b called; same text whoever throws it.
[[noreturn]] void throw_mismatch(const std::string& name_a, const CallRecord& a,
                                 const std::string& name_b, const CallRecord& b);

}  // namespace peal
