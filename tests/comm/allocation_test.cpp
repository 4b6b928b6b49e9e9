// Steady calls take no memory from the heap.
#include <gtest/gtest.h>

#include <atomic>

#include "tests/allocations.h"
#include "tests/comm/contract.h"

namespace peal {
namespace {

TEST(Allocation, SteadyCallsTakeNoHeapMemory) {
  std::atomic<std::int64_t> taken{-1};
  run_local_ranks(3, [&](Communicator& comm) {
    Stream s;
    GradientBuckets buckets(comm, 1 << 16, {4096, Reduction::rank_invariant, 5});
    BucketOptions in_half{4096, Reduction::rank_invariant, 5, {.kind = Compression::Kind::half}};
    GradientBuckets half_buckets(comm, 1 << 16, in_half);
    BucketOptions in_int8{4096, Reduction::fast, 1, {.kind = Compression::Kind::int8}};
    GradientBuckets int8_buckets(comm, 1 << 16, in_int8);
    BucketOptions in_shards{4096, Reduction::rank_invariant, 5};
    in_shards.sharding = BucketSharding{.whole_bytes = 64, .unit = 256};
    GradientBuckets sharded_buckets(comm, 1 << 16, in_shards);
    std::vector<float> x(1000), y(3000), z(3000);
    const Tensor view = contract::view(x), all = contract::view(y), other = contract::view(z);
    const Tensor group[] = {{x.data(), {100}}, {x.data() + 100, {7}}, {x.data() + 200, {800}}};
    const std::vector<std::int64_t> counts{1000, 1000, 1000};
    std::vector<std::uint16_t> halves(1000);
    const Tensor half{halves.data(), {1000}, DType::f16};
    const auto step = [&] {
      buckets.ready(s, 1 << 16);
      buckets.finish(s);
      half_buckets.ready(s, 1 << 16);
      half_buckets.finish(s);
      int8_buckets.ready(s, 1 << 16);
      int8_buckets.finish(s);
      sharded_buckets.ready(s, 1 << 16);
      sharded_buckets.finish(s);
      comm.wait(s, comm.all_reduce(s, "loss", view, view, ReduceOp::mean));
      comm.wait(s, comm.all_reduce(s, "half", half, half, ReduceOp::mean));
      comm.wait(s, comm.all_reduce_group(s, "group", group, group, ReduceOp::sum));
      comm.wait(s, comm.broadcast(s, "weights", view, 0));
      comm.wait(s, comm.reduce(s, "reduce", view, view, ReduceOp::sum, 1));
      comm.wait(s, comm.all_gather(s, "gather", view, all, counts));
      comm.wait(s, comm.scatter(s, "scatter", all, view, 2));
      comm.wait(s, comm.all_to_all(s, "tokens", all, other, counts, counts));
    };
    step();
    comm.wait(s, comm.barrier(s, "warm"));
    const auto steps = [&] {
      comm.wait(s, comm.barrier(s, "begin"));
      for (int i = 0; i < 20; ++i) step();
      comm.wait(s, comm.barrier(s, "end"));
    };
    if (comm.rank() == 0) {
      taken = count_allocations(steps);  // of all ranks
    } else {
      steps();
    }
    comm.wait(s, comm.barrier(s, "looked"));
  });
  EXPECT_EQ(taken, 0);
}

}  // namespace
}  // namespace peal
