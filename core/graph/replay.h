// How a Plan's calls are replayed as recordings (core/device/recording.h): where backward is cut,
// what is kept for which addresses, and where calls read what differs from pass to pass.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/device/buffer.h"
#include "core/device/recording.h"
#include "core/device/stream.h"
#include "core/device/tensor.h"

namespace peal {

struct PassKey;

// Calls [begin, end) of backward, recorded as one. After them the caller is told of `bytes_final`
// of the gradient arena; 0: of nothing.
struct CallSegment {
  std::size_t begin = 0, end = 0;
  std::size_t bytes_final = 0;
};

// `bytes_final[i]`: how many bytes from the arena's start call i has made final, growing, or 0
// where it makes none. A segment ends with the call that reaches the next of `bounds` (growing)
// that no call before reached, and with the last that makes any final. What is left is one more.
// Where nobody cares when (no bounds), calls up to that last one are one segment.
std::vector<CallSegment> cut_calls(std::span<const std::size_t> bytes_final,
                                   std::span<const std::size_t> bounds);

// Recordings of one list of calls by the addresses that they use from outside of the plan. Of
// `most` keys; the one whose use is longest ago makes room for another.
class RecordingsByAddress {
 public:
  explicit RecordingsByAddress(std::size_t most) : most_(most) {}

  // The recordings of those addresses, empty at first. Until another call here, or clear().
  std::vector<Recording>& at(std::span<const void* const> addresses);
  void clear() { kept_.clear(); }
  std::size_t size() const { return kept_.size(); }

 private:
  struct Kept {
    std::vector<const void*> addresses;
    std::vector<Recording> recordings;
    std::uint64_t used = 0;
  };
  std::size_t most_;
  std::uint64_t uses_ = 0;
  std::vector<Kept> kept_;
};

// What differs from pass to pass, in memory of the device, where recorded calls read it. It is
// written in the order of the stream, so that passes under way keep theirs, and only where it is
// not there already.
class PassMemory {
 public:
  explicit PassMemory(const Device& device);

  void set_key(Stream& s, const PassKey& key);
  void set_loss_scale(Stream& s, float scale);
  // (1) f32 by which loss_scale() is more than what was set, as it is when that is enqueued.
  void multiply_loss_scale_by(const Tensor& factor) { factor_ = factor; }

  const Tensor& draws() const { return draws_; }            // (2) i64, as Kernels::dropout takes it
  const Tensor& loss_scale() const { return loss_scale_; }  // (1)

 private:
  Buffer memory_;
  Tensor draws_, set_, loss_scale_, factor_;
  std::int64_t draws_there_[2] = {}, set_there_ = 0;  // as in memory_
};

}  // namespace peal
