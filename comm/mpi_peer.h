// MPI's own collectives on host memory, to measure Peal's beside them. For measuring only: no
// deadline, no agreement on what is called, and an error that MPI reports ends the job.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "core/device/tensor.h"

namespace peal {

// Every call blocks, is made by all ranks of MPI_COMM_WORLD alike (send and recv: by two), and adds
// up where it reduces; bool: "or". MPI knows no f16 and bf16: it is handed an operation that adds
// in f32 and rounds, as a program would do. Tensors are row-major. Not while a call on a
// Communicator of this process is in progress: both may use MPI, which one thread at a time may do.
// Throws Error(peer) with MPI's message, Error(input) for more than kMostElements.
class MpiPeer {
 public:
  static constexpr std::int64_t kMostElements = std::numeric_limits<int>::max();

  MpiPeer();  // collective, inside the life of an MpiSession
  ~MpiPeer();

  void all_reduce(const Tensor& x, const Tensor& y);      // y may be x
  void reduce_scatter(const Tensor& x, const Tensor& y);  // y may be this rank's part of x
  void all_gather(const Tensor& x, const Tensor& y);      // x may be this rank's part of y
  void broadcast(const Tensor& x, int root);
  // y, or x of a scatter, is used on the root only, where one array may be its part of the other.
  void reduce(const Tensor& x, const Tensor& y, int root);
  void gather(const Tensor& x, const Tensor& y, int root);
  void scatter(const Tensor& x, const Tensor& y, int root);
  void all_to_all(const Tensor& x, const Tensor& y);
  void send(const Tensor& x, int to);
  void recv(const Tensor& y, int from);

  static std::string library();  // "Open MPI v4.1.4"

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace peal
