// MPI's own collectives on host memory, to measure Peal's beside them. For measuring only: no
// deadline, no agreement on what is called, and an error that MPI reports ends the job.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "core/device/tensor.h"

namespace peal {

// Every call blocks, is made by all ranks of MPI_COMM_WORLD alike, and adds up where it reduces.
// Tensors are row-major: f32, f64, i32, i64, u8. Not while a call on a Communicator of this process
// is in progress: both may use MPI, which one thread at a time may do. Throws Error(peer) with
// MPI's message, Error(input) for another dtype or more than kMostElements.
class MpiPeer {
 public:
  static constexpr std::int64_t kMostElements = std::numeric_limits<int>::max();

  MpiPeer();  // collective, inside the life of an MpiSession
  ~MpiPeer();

  void all_reduce(const Tensor& x, const Tensor& y);      // y may be x
  void reduce_scatter(const Tensor& x, const Tensor& y);  // y may be this rank's part of x
  void all_gather(const Tensor& x, const Tensor& y);      // x may be this rank's part of y
  void broadcast(const Tensor& x, int root);

  static std::string library();  // "Open MPI v4.1.4"

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace peal
