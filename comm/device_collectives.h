// The calls of a communicator on device memory, as work of a DeviceEngine.
#pragma once

#include <span>
#include <vector>

#include "comm/call.h"
#include "comm/device_engine.h"
#include "comm/reduce.h"

namespace peal {

class DeviceCollectives {
 public:
  DeviceCollectives(DeviceEngine& engine, int ranks, int rank);

  // Enqueues all work of the call, which every rank is known to make.
  void run(const Call& call);
  // Whether an all_reduce is the engine's own; else slices are exchanged and summed by a kernel.
  static bool is_native(const Call& call);

 private:
  // An array, or one tensor of a group. y: nullptr on a rank that does not receive the reduction.
  struct Array {
    std::span<const std::byte* const> inputs;
    std::byte* y = nullptr;
    std::size_t count = 0;
  };

  void all_reduce(const Call& call);
  void reduce(const Call& call);
  void reduce_scatter(const Call& call);
  void reduce_scatter_tree(const Call& call);
  void all_gather(const Call& call);
  void exchange(const Call& call);
  void send_or_receive(const Call& call);
  void barrier();

  template <typename SliceOf>
  SumSources to_owners(const Call& call, std::span<const std::byte* const> inputs,
                       std::byte* scratch, const SliceOf& slice_of);
  void ordered(const Call& call, const ReducePlan& plan, const Array& array);
  void ordered_piece(const Call& call, const ReducePlan& plan, const Array& piece);
  void share(const Call& call, const Array& piece, const std::byte* total);
  void divide(const Call& call, std::byte* y, std::size_t count);
  Slice slice(const Call& call, const Array& piece, int rank) const;
  int around(int rank) const { return (rank % ranks_ + ranks_) % ranks_; }

  DeviceEngine& engine_;
  int ranks_, rank_;
  ReducePlan chain_, pairs_;
  std::vector<const std::byte*> inputs_;
};

}  // namespace peal
