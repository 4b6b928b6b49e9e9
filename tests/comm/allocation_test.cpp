// Steady calls take no memory from the heap.
#include <gtest/gtest.h>

#include <atomic>

#include "tests/comm/contract.h"

long heap_allocations();  // counting_new.cpp

namespace peal {
namespace {

TEST(Allocation, SteadyCallsTakeNoHeapMemory) {
  std::atomic<long> taken{-1};
  run_local_ranks(3, [&](Communicator& comm) {
    Stream s;
    GradientBuckets buckets(comm, 1 << 16, {4096, Reduction::rank_invariant, 5});
    std::vector<float> x(1000);
    const Tensor view = contract::view(x);
    const auto step = [&] {
      buckets.ready(s, 1 << 16);
      buckets.finish(s);
      comm.wait(s, comm.all_reduce(s, "loss", view, view, ReduceOp::mean));
      comm.wait(s, comm.broadcast(s, "weights", view, 0));
    };
    step();
    comm.wait(s, comm.barrier(s, "warm"));
    const long before = heap_allocations();
    comm.wait(s, comm.barrier(s, "begin"));
    for (int i = 0; i < 20; ++i) step();
    comm.wait(s, comm.barrier(s, "end"));
    if (comm.rank() == 0) taken = heap_allocations() - before;
    comm.wait(s, comm.barrier(s, "looked"));
  });
  EXPECT_EQ(taken, 0);
}

}  // namespace
}  // namespace peal
