// What the calls of a Communicator may be given. Each check throws Error(input) that begins with
// the call, `all_reduce "bucket 7": `, and says what was given and what is allowed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "comm/communicator.h"

namespace peal {

// Where an argument is wrong; made into text only then.
struct CallPlace {
  std::string_view call, name;
  std::string text() const;
};

// Row-major memory that is there.
void require_memory(const CallPlace& place, const Tensor& t, std::string_view what);
// Both have memory, and are of one dtype.
void require_same_dtype(const CallPlace& place, const Tensor& x, const Tensor& y);
// Also times_x * x.numel() == times_y * y.numel().
void require_pair(const CallPlace& place, const Tensor& x, std::int64_t times_x, const Tensor& y,
                  std::int64_t times_y);
void require_elements(const CallPlace& place, const Tensor& t, std::string_view what,
                      std::int64_t elements);
// Memory that does not overlap, unless `part` begins at element `offset` of `whole` (in place). No
// overlap at all where `offset` is below 0.
void require_apart(const CallPlace& place, const Tensor& part, const Tensor& whole,
                   std::int64_t offset);
void require_operation(const CallPlace& place, DType dtype, ReduceOp op);
void require_root(const CallPlace& place, int root, int ranks);
void require_peer(const CallPlace& place, int peer, int rank, int ranks);
// One count for each rank, none below 0.
void require_counts(const CallPlace& place, Counts counts, std::string_view what, int ranks);

}  // namespace peal
