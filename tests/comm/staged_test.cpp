// The contract over `staged`, with the CPU as the device: what is copied where, chunk by chunk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "comm/device_comm.h"
#include "comm/staging.h"
#include "tests/comm/contract_all.h"
#include "tests/comm/late.h"
#include "tests/comm/mirrored.h"

namespace peal {
namespace {

using ::testing::HasSubstr;

class Staged : public ::testing::TestWithParam<int> {
 protected:
  static void run(std::size_t chunk_bytes, const std::function<void(Communicator&)>& test) {
    run_local_ranks(GetParam(), [&](Communicator& host) {
      host.set_deadline(60);
      const auto comm = make_staged_communicator(host, kCpu, {chunk_bytes});
      test(*comm);
    });
  }
};

// So small that a tree over several partial sums and the blocks of all ranks take many chunks.
TEST_P(Staged, FollowsTheContractInSmallChunks) {
  run(64 << 10, [](Communicator& comm) { contract::everything(comm); });
}
TEST_P(Staged, FollowsTheContractInTheLeastChunks) {
  run(1, [](Communicator& comm) {
    contract::roots_and_blocks<std::int64_t>(comm, contract::Memory::own);
    contract::roots_and_blocks<std::int8_t>(comm, contract::Memory::own);
    contract::all_reduce_groups<float>(comm, contract::Memory::own);
    contract::ragged_calls_in_flight(comm);
    contract::tree_is_invariant(comm, 12);
    contract::tree_scatters(comm, 5);
  });
}
TEST_P(Staged, FollowsTheContractInOneChunk) {
  run(std::size_t{4} << 20, [](Communicator& comm) {
    contract::all_reduce<float>(comm);
    contract::roots_and_blocks<contract::Bf16>(comm, contract::Memory::own);
    contract::all_reduce_groups<float>(comm, contract::Memory::own);
    contract::send_and_receive<double>(comm, contract::Memory::own);
    contract::buckets_match(comm, Reduction::rank_invariant, 11);
  });
}
TEST_P(Staged, Groups) {
  run(64 << 10, contract::groups_of_threads);
}
TEST_P(Staged, FailingGroups) {
  for (const contract::FailingGroup& failing : contract::kFailingGroups) {
    if (GetParam() < 2) continue;
    SCOPED_TRACE(failing.name);
    run(64 << 10, failing.run);
  }
}
// What tests/gpu runs the contract through.
TEST_P(Staged, FollowsTheContractWithArraysMirrored) {
  run_local_ranks(GetParam(), [](Communicator& host) {
    Mirrored comm(make_staged_communicator(host, kCpu, {64 << 10}), kCpu);
    contract::everything(comm);
    contract::split_orders_by_key(comm);
  });
}
TEST_P(Staged, KnowsItsPlace) {
  run(64 << 10, [](Communicator& comm) {
    EXPECT_EQ(comm.backend(), "staged");
    EXPECT_EQ(comm.world_size(), GetParam());
    EXPECT_EQ(comm.local_rank(), comm.rank());
    EXPECT_EQ(comm.rank_name(0), "rank 0");
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Staged, ::testing::Range(1, 5));

// The host communicator goes on beside it.
TEST(StagedErrors, TheHostCommunicatorStaysFree) {
  run_local_ranks(2, [](Communicator& host) {
    Stream s;
    const auto comm = make_staged_communicator(host, kCpu);
    std::vector<float> x(1009, 1), y(1009, 2);
    const Request mine =
        comm->all_reduce(s, "x", contract::view(x), contract::view(x), ReduceOp::sum);
    host.wait(s, host.all_reduce(s, "y", contract::view(y), contract::view(y), ReduceOp::sum));
    comm->wait(s, mine);
    EXPECT_EQ(x[1008], 2);
    EXPECT_EQ(y[1008], 4);
  });
}

// Counts differ in the last chunk only: the whole call is compared before the first.
TEST(StagedErrors, AMismatchNamesTheWholeCall) {
  run_local_ranks(2, [](Communicator& host) {
    const auto comm = make_staged_communicator(host, kCpu, {16 << 10});
    Stream s;
    std::vector<float> x(comm->rank() == 1 ? 20'001 : 20'000);
    const std::string text = contract::error_of(ErrorKind::numeric, [&] {
      comm->wait(s,
                 comm->all_reduce(s, "loss", contract::view(x), contract::view(x), ReduceOp::sum));
    });
    EXPECT_THAT(text, HasSubstr("all_reduce \"loss\" (sum, f32, 20000 elements) on rank 0"));
    EXPECT_THAT(text, HasSubstr("all_reduce \"loss\" (sum, f32, 20001 elements) on rank 1"));
    contract::require_text(
        contract::error_of(ErrorKind::numeric, [&] { comm->barrier(s, "later"); }), text);
  });
}

TEST(StagedErrors, RaggedCountsAreCompared) {
  run_local_ranks(2, [](Communicator& host) {
    const auto comm = make_staged_communicator(host, kCpu, {16 << 10});
    Stream s;
    const std::vector<std::int64_t> ones{1, 1}, more{1, 5000};
    std::vector<float> x(comm->rank() == 1 ? 5001 : 2), y(2);
    contract::require_text(
        contract::error_of(ErrorKind::numeric,
                           [&] {
                             comm->wait(s, comm->all_to_all(s, "tokens", contract::view(x),
                                                            contract::view(y),
                                                            comm->rank() == 1 ? more : ones, ones));
                           }),
        "rank 1 sends 5000 elements to rank 1, which expects 1");
  });
}

TEST(StagedErrors, ALateRankIsNamed) {
  GaveUp other;
  run_local_ranks(2, [&](Communicator& host) {
    const auto comm = make_staged_communicator(host, kCpu);
    Stream s;
    std::vector<float> x(10);
    comm->set_step(1203);
    comm->wait(s, comm->barrier(s, "bucket 6"));
    comm->set_deadline(comm->rank() == 0 ? 0.5 : 30);
    const auto end = other.at_end(comm->rank() == 0);
    if (comm->rank() == 1) other.wait();
    contract::require_text(
        contract::error_of(ErrorKind::peer,
                           [&] {
                             comm->wait(s, comm->all_reduce(s, "bucket 7", contract::view(x),
                                                            contract::view(x), ReduceOp::sum));
                           }),
        "rank 0 step 1203: waited 0.5 s in all_reduce \"bucket 7\"; rank 1 last finished \"bucket "
        "6\"");
  });
}

TEST(StagedErrors, AnAbortIsHeard) {
  run_local_ranks(3, [](Communicator& host) {
    const auto comm = make_staged_communicator(host, kCpu);
    Stream s;
    contract::require_text(contract::error_of(ErrorKind::input,
                                              [&] {
                                                if (comm->rank() == 1) {
                                                  comm->abort("train.idx: record 7 is cut short",
                                                              2);
                                                }
                                                comm->wait(s, comm->barrier(s, "epoch"));
                                              }),
                           "rank 1: train.idx: record 7 is cut short");
  });
}

// A rank that leaves in the middle of a call does not wait for the deadline of 300 s.
TEST(StagedErrors, ARankMayLeaveInTheMiddle) {
  const auto start = std::chrono::steady_clock::now();
  run_local_ranks(2, [](Communicator& host) {
    auto comm = make_staged_communicator(host, kCpu);
    Stream s;
    if (comm->rank() == 0) {
      comm->barrier(s, "alone");
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    comm.reset();
    host.wait(s, host.barrier(s, "together"));
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(StagedErrors, MemoryOfAnotherDeviceIsRefused) {
  run_local_ranks(1, [](Communicator& host) {
    const auto comm = make_staged_communicator(host, kCpu);
    Stream s;
    std::vector<float> x(10);
    Tensor there = contract::view(x);
    there.device = {Device::Kind::cuda, 1};
    for (Communicator* c : {comm.get(), &host}) {
      EXPECT_EQ(contract::error_of(ErrorKind::input,
                                   [&] { c->all_reduce(s, "loss", there, there, ReduceOp::sum); }),
                "all_reduce \"loss\": memory or stream of cuda:1; those of this communicator are "
                "of cpu");
    }
  });
}

}  // namespace
}  // namespace peal
