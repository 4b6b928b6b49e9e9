// How the arrays of a call go through a buffer of host memory: which elements are in a chunk, where
// they lie in the buffer, and the call on the buffer that does the chunk's part.
//
// A chunk is the elements [chunk.begin, chunk.end) of every block, of every partial sum (with
// blocks or without), or of the array (a group: of its tensors in a row).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "comm/call.h"

namespace peal {

class Staging {
 public:
  // Between the call's memory and the buffer.
  using Copy = std::function<void(std::byte* to, const std::byte* from, std::size_t bytes)>;

  Staging(int ranks, int rank) : ranks_(ranks), rank_(rank) {}

  // The least that a buffer must hold, for any call.
  static std::size_t least_bytes(int ranks);
  // The longest chunk that fits into a buffer of `bytes`, the same on every rank.
  std::size_t chunk_elements(const Call& call, std::size_t bytes) const;

  // Inputs of the chunk into the buffer, before its call.
  void copy_in(const Call& call, Slice chunk, std::byte* buffer, const Copy& copy) const;
  // Its results out of the buffer, after that.
  void copy_out(const Call& call, Slice chunk, std::byte* buffer, const Copy& copy) const;
  // The call on the buffer. Its bounds are memory of this object, until the next one is made.
  Call call_on(const Call& call, Slice chunk, std::byte* buffer);

 private:
  Slice outgoing(const Call& call, Slice chunk, int rank) const;
  Slice incoming(const Call& call, Slice chunk, int rank) const;
  Slice mine(const Call& call, Slice chunk) const;
  Slice mine_of_array(const Call& call, Slice chunk) const;
  std::size_t place_of_mine(const Call& call, Slice chunk) const;
  std::size_t place_of_arrivals(const Call& call, Slice chunk) const;
  template <typename Visit>
  void visit_inputs(const Call& call, Slice chunk, const Visit& visit) const;
  template <typename Visit>
  void visit_outputs(const Call& call, Slice chunk, const Visit& visit) const;
  void set_bounds(Call& on, const Call& call, Slice chunk);

  int ranks_, rank_;
  std::vector<std::int64_t> bounds_;
};

}  // namespace peal
