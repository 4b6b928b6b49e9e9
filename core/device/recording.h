// Work of a stream, recorded once and then enqueued as one piece, any number of times: on cuda a
// CUDA graph, which costs the host one call where the work's kernels cost one each; on the CPU,
// where the calling thread is the stream, the work itself, called again.
//
// What is recorded is what the work did that one time: it keeps the addresses and the values that
// the work had then. Addresses must stay good, and what differs from one replay to the next must
// lie in memory that kernels read (Kernels::set_values). On the CPU `work` is held to the same by
// keeping copies of what it was told, not references.
#pragma once

#include <functional>
#include <string>

#include "core/device/stream.h"

namespace peal {

// Move-only; destroying one does not wait for replays that are under way. Used on one thread at a
// time, and replayed in the order of the stream that it was recorded on, whose workspace its
// kernels may use.
class Recording {
 public:
  Recording() = default;
  // On cuda calls work(s), of which nothing is done yet: it only enqueues kernels and copies
  // between memories of devices on `s`, and neither allocates nor waits. Other threads may do what
  // they like meanwhile. What `work` throws passes through, `s` is then as before; what CUDA
  // refuses is Error(internal) that names the CUDA call and `name`. On the CPU `work` is kept.
  Recording(Stream& s, std::string name, std::function<void(Stream&)> work);
  ~Recording();
  Recording(Recording&& other) noexcept;
  Recording& operator=(Recording&& other) noexcept;

  // Enqueues the work on `s`.
  void replay(Stream& s) const;

 private:
  std::string name_;
  std::function<void(Stream&)> work_;  // the CPU's
  void* graph_ = nullptr;              // a cudaGraphExec_t
};

}  // namespace peal
