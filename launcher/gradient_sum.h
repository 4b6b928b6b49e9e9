// How the gradients of all virtual ranks, of this process and of others, become one sum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "comm/tree.h"
#include "core/device/stream.h"
#include "core/graph/plan.h"
#include "core/state/checkpoint.h"

namespace peal {

// Whether compression keeps what it has left out of gradients, to add it to the next ones: one
// arena in their layout for the virtual ranks of a rank together, or for each of them.
enum class Errors : std::uint8_t { none, by_rank, by_virtual_rank };

// The lanes (threads) split the rank's virtual ranks into contiguous parts, its leaves. A lane runs
// its leaves in order; lanes run side by side.
class GradientSum {
 public:
  virtual ~GradientSum() = default;

  virtual int lanes() const = 0;
  virtual TreeNode leaves(int lane) const = 0;

  // False: communication starts only when every lane has finished all of its gradients.
  virtual void set_overlap(bool) {}
  virtual void begin_step(std::int64_t step) = 0;
  // Where (leaf, part) writes its gradient. Leaves come in order, parts in order within a leaf.
  virtual std::byte* target(int lane, int leaf, int part) = 0;
  // Everything below `bytes_final` of the gradient at hand is written. Starts communication when
  // this is the last leaf and part of every lane.
  virtual void ready(Stream& s, int lane, int leaf, int part, std::size_t bytes_final) = 0;
  // Numbers of bytes at which ready() does something that it would not do at the next; growing.
  virtual std::vector<std::size_t> bounds() const { return {}; }
  // The gradient at hand is complete.
  virtual void end_part(Stream& s, int lane, int leaf, int part) = 0;
  // All are: makes `s` wait for the sum. `on_slice` is called with slices [begin, end) in bytes, in
  // order, as they are complete; the first covers the slots.
  using OnSlice = std::function<void(std::size_t begin, std::size_t end)>;
  virtual void finish(Stream& s, const OnSlice& on_slice) = 0;
  virtual std::size_t slices() const = 0;  // of a step, at most; each takes two calls at most
  virtual std::byte* total() = 0;          // the sum, the same on every rank

  virtual std::size_t bytes() const = 0;  // of memory

  // What a checkpoint keeps: errors of some parameters, and tensors that every rank has.
  virtual Errors errors() const { return Errors::none; }
  virtual std::byte* error(int first_virtual_rank) = 0;  // of this rank
  virtual std::vector<ArenaEntry> entries_with_error(const ParameterTable& table) const {
    return table.parameters;
  }
  virtual std::vector<NamedTensor> common_state() { return {}; }
};

}  // namespace peal
