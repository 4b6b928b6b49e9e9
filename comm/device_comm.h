// Communicators for the memory of devices, made over one for the memory of hosts. Both follow
// communicator.h; what they are given lies on their device, and so do the streams: a call begins
// after the work that is in its stream, and wait() makes the stream wait for its end.
//
// Both split a group of their own off `host` (Communicator::split), which stays the caller's: for
// start-up agreement, for host memory, and to be used at the same time. They may outlive it. Groups
// split from them are of the same kind. Where `host` has no progress thread (mpi_comm.h), `staged`
// has none either.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace peal {

struct StagedOptions {
  std::size_t chunk_bytes = std::size_t{4} << 20;  // of pinned memory, of which there are two
};

// Device memory through pinned host memory and `host`, in chunks: while one is reduced the next is
// copied in and the one before out. For several ranks on one GPU, and for any MPI. Here wait()
// blocks until the ranks have met and the last copy is enqueued, and only the stream waits for that
// copy; a failure is thrown by wait() itself. Steps and bytes between ranks are those of `host`;
// between device and host each array goes once. Collective over `host`.
//
// `device` may be kCpu: then device memory is host memory (for tests).
std::unique_ptr<Communicator> make_staged_communicator(Communicator& host, Device device,
                                                       const StagedOptions& options = {});

struct NcclOptions {
  // Whether ranks compare every call before it starts, as `host` does: a difference is then an
  // error that names both calls, and a late rank is named with the last call that it finished.
  // Otherwise only the first 256 calls are compared (in training, the first steps) and every ragged
  // all_to_all; ranks that disagree later wait for each other until the deadline, and are named
  // without the call that they finished last.
  bool compare_calls = false;
};

// NCCL between GPUs. wait() does not block once the call is enqueued, so that a call which fails on
// the device (deadline, peer gone) is thrown by done() or by the next call; what the stream was
// waiting for is then aborted and its memory undefined. Destroying one is collective and waits
// until all calls have ended, at most for the deadline; but one that has failed, or is destroyed by
// an exception, goes at once.
//
// What NCCL reduces as communicator.h says is left to it; half types, and min and max of floats,
// are exchanged and reduced by a kernel at the same number of bytes.
//
// Throws Error(input), the same on every rank, when a rank has no such device or Peal was built
// without CUDA or NCCL, Error(numeric) when ranks have different versions of NCCL, Error(peer) when
// NCCL cannot connect the ranks. Two ranks on one GPU are refused by NCCL; `staged` serves those.
// Collective over `host`, which must have a progress thread.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, Device device,
                                                     const NcclOptions& options = {});

}  // namespace peal
