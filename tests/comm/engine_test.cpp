// The contract over what surrounds NCCL: which of its calls a call becomes, in what order, what is
// compared, and what happens to calls that do not end. cpu_engine.h stands for NCCL and the GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "comm/device_transport.h"
#include "tests/comm/contract_all.h"
#include "tests/comm/cpu_engine.h"
#include "tests/comm/late.h"

namespace peal {
namespace {

using ::testing::HasSubstr;

// test(rank's communicator, the one of its host). `control`: what the engines of all ranks share.
void run_engines(int ranks, EngineControl& control,
                 const std::function<void(Communicator&, Communicator&)>& test,
                 NcclOptions options = {}) {
  run_local_ranks(ranks, [&](Communicator& host) {
    host.set_deadline(60);
    const auto comm =
        make_engine_communicator(host, kCpu, "engine", options, make_cpu_engine(control));
    test(*comm, host);
  });
}

void run_ranks(int ranks, const std::function<void(Communicator&, EngineControl&)>& test,
               NcclOptions options = {}) {
  EngineControl control;
  run_engines(
      ranks, control, [&](Communicator& comm, Communicator&) { test(comm, control); }, options);
}

// After these calls none ends.
void get_stuck(int calls, Communicator& comm, Communicator& host, EngineControl& control) {
  Stream s;
  Request last;
  for (int i = 0; i < calls; ++i) last = comm.barrier(s, cat("call ", i));
  while (!comm.done(last)) std::this_thread::yield();
  host.wait(s, host.barrier(s, "ready"));
  control.stuck = true;
}

class Engine : public ::testing::TestWithParam<int> {};

TEST_P(Engine, FollowsTheContract) {
  run_ranks(GetParam(), [](Communicator& comm, EngineControl&) { contract::everything(comm); });
}
TEST_P(Engine, FollowsTheContractAndComparesAll) {
  run_ranks(GetParam(),
            [](Communicator& comm, EngineControl&) {
              contract::roots_and_blocks<float>(comm, contract::Memory::own);
              contract::send_and_receive<double>(comm, contract::Memory::own);
              contract::calls_run_in_order(comm);
            },
            {.compare_calls = true});
}
TEST_P(Engine, Groups) {
  run_ranks(GetParam(),
            [](Communicator& comm, EngineControl&) { contract::groups_of_threads(comm); });
}
TEST_P(Engine, FailingGroups) {
  for (const contract::FailingGroup& failing : contract::kFailingGroups) {
    if (GetParam() < 2) continue;
    SCOPED_TRACE(failing.name);
    run_ranks(GetParam(), [&](Communicator& comm, EngineControl&) { failing.run(comm); });
  }
}
// What NCCL may not do itself goes through the kernel, all else does not.
TEST_P(Engine, HalfTypesAndMinOfFloatsAreExchanged) {
  run_ranks(GetParam(), [](Communicator& comm, EngineControl& control) {
    Stream s;
    const auto kernels_of = [&](auto x, ReduceOp op) {
      comm.wait(s, comm.barrier(s, "before"));
      const int before = control.sums;
      comm.wait(s, comm.barrier(s, "counted"));
      std::vector<decltype(x)> data(1024, x);
      comm.wait(s, comm.all_reduce(s, "x", contract::view(data), contract::view(data), op));
      comm.wait(s, comm.barrier(s, "after"));
      return control.sums - before;
    };
    EXPECT_EQ(kernels_of(1.0f, ReduceOp::sum), 0);
    EXPECT_EQ(kernels_of(1.0f, ReduceOp::mean), 0);
    EXPECT_EQ(kernels_of(std::int32_t{1}, ReduceOp::min), 0);
    EXPECT_EQ(kernels_of(1.0, ReduceOp::max), comm.world_size());
    EXPECT_EQ(kernels_of(contract::F16{}, ReduceOp::sum), comm.world_size());
  });
}
TEST_P(Engine, LeavesInOrder) {
  EngineControl control;
  run_local_ranks(GetParam(), [&](Communicator& host) {
    auto comm = make_engine_communicator(host, kCpu, "engine", {}, make_cpu_engine(control));
    // The others have left long before the last, whom that does not frighten.
    if (comm->rank() == 0) control.slow = comm->world_size() - 1;
    comm.reset();
    Stream s;
    host.wait(s, host.barrier(s, "the host communicator goes on"));
  });
  EXPECT_EQ(control.closed, GetParam());
  EXPECT_EQ(control.aborted, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, Engine, ::testing::Range(1, 5));

TEST(EngineErrors, AMismatchIsFoundBeforeTheDeviceIsAsked) {
  run_ranks(2, [](Communicator& comm, EngineControl& control) {
    Stream s;
    std::vector<float> x(comm.rank() == 1 ? 11 : 10);
    const std::string text = contract::error_of(ErrorKind::numeric, [&] {
      comm.wait(s, comm.all_reduce(s, "loss", contract::view(x), contract::view(x), ReduceOp::sum));
    });
    EXPECT_THAT(text, HasSubstr("all_reduce \"loss\" (sum, f32, 10 elements) on rank 0"));
    EXPECT_THAT(text, HasSubstr("all_reduce \"loss\" (sum, f32, 11 elements) on rank 1"));
    EXPECT_EQ(control.native, 0);
  });
}

TEST(EngineErrors, ALateRankIsNamed) {
  GaveUp other;
  run_ranks(2, [&](Communicator& comm, EngineControl&) {
    Stream s;
    comm.set_step(1203);
    comm.wait(s, comm.barrier(s, "bucket 6"));
    comm.set_deadline(comm.rank() == 0 ? 0.5 : 30);
    const auto end = other.at_end(comm.rank() == 0);
    if (comm.rank() == 1) other.wait();
    contract::require_text(
        contract::error_of(ErrorKind::peer, [&] { comm.wait(s, comm.barrier(s, "bucket 7")); }),
        "rank 0 step 1203: waited 0.5 s in barrier \"bucket 7\"; rank 1 last finished \"bucket "
        "6\"");
  });
}

// The call has been started on all ranks and never ends: every rank's engine is aborted, and both
// done() and the next call say why.
TEST(EngineErrors, ACallThatDoesNotEndIsAborted) {
  EngineControl shared;
  run_engines(2, shared, [&](Communicator& comm, Communicator& host) {
    get_stuck(1, comm, host, shared);
    Stream s;
    const int before = shared.native;
    host.wait(s, host.barrier(s, "looked"));
    const Request request = comm.barrier(s, "stuck");
    comm.wait(s, request);                                         // the stream waits, not the host
    while (shared.native < before + 2) std::this_thread::yield();  // until both ranks are in it
    comm.set_deadline(0.3);
    const std::string text = contract::error_of(ErrorKind::peer, [&] {
      while (!comm.done(request)) std::this_thread::yield();
    });
    EXPECT_THAT(text, HasSubstr("waited 0.3 s in barrier \"stuck\"; all ranks are in it"));
    EXPECT_EQ(contract::error_of(ErrorKind::peer, [&] { comm.barrier(s, "next"); }), text);
    EXPECT_EQ(contract::error_of(ErrorKind::peer, [&] { comm.wait(s, request); }), text);
  });
  EXPECT_EQ(shared.aborted, 2);
  EXPECT_EQ(shared.closed, 0);
}

// After the first calls are no longer compared, those who are in a late call ask who is not.
TEST(EngineErrors, RanksInALateCallAskWhoIsNot) {
  EngineControl shared;
  run_engines(3, shared, [&](Communicator& comm, Communicator& host) {
    get_stuck(256, comm, host, shared);
    comm.set_deadline(0.3);
    if (comm.rank() == 2) {  // computes for long; its engine must meet the others' all the same
      comm.set_deadline(60);
    }
    Stream s;
    const Request request = comm.barrier(s, "stuck");
    const std::string text = contract::error_of(ErrorKind::peer, [&] {
      while (!comm.done(request)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    EXPECT_THAT(text,
                HasSubstr("waited 5.3 s in barrier \"stuck\"; rank 2 last finished \"the last "
                          "call that was compared\""));
    EXPECT_THAT(text, ::testing::Not(HasSubstr("rank 0 last")));
    EXPECT_THAT(text, ::testing::Not(HasSubstr("rank 1 last")));
  });
  EXPECT_EQ(shared.aborted, 3);
}

// As above, but the call is not on the device yet: the engine waits for peers to begin it.
TEST(EngineErrors, RanksThatWaitToBeginALateCallAskWhoIsNotThere) {
  EngineControl shared;
  GaveUp other;
  run_engines(3, shared, [&](Communicator& comm, Communicator& host) {
    Stream s;
    for (int i = 0; i < 256; ++i) comm.wait(s, comm.barrier(s, "compared"));
    host.wait(s, host.barrier(s, "all are through"));
    shared.connecting = true;
    host.wait(s, host.barrier(s, "and see it"));
    comm.set_deadline(comm.rank() == 2 ? 60 : 0.3);
    const auto end = other.at_end(comm.rank() == 0);
    const std::string text = contract::error_of(ErrorKind::peer, [&] {
      if (comm.rank() == 2) other.wait();
      const Request request = comm.barrier(s, "late");
      while (!comm.done(request)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    EXPECT_THAT(text, HasSubstr("waited 5.3 s in barrier \"late\"; rank 2 last finished \"the "
                                "last call that was compared\""));
  });
  EXPECT_GE(shared.aborted, 2);  // rank 2 may hear of it before it has begun anything
  EXPECT_EQ(shared.closed, 0);
}

// Rank 1 leaves with a cause while the others' call is on the device.
TEST(EngineErrors, AnAbortIsHeardWhileACallIsOnTheDevice) {
  EngineControl shared;
  run_engines(3, shared, [&](Communicator& comm, Communicator& host) {
    get_stuck(1, comm, host, shared);
    Stream s;
    const Request request = comm.barrier(s, "stuck");
    if (comm.rank() == 1) {
      comm.wait(s, request);
      comm.abort("train.idx: record 7 is cut short", 2);
    }
    const std::string text = contract::error_of(ErrorKind::input, [&] {
      if (comm.rank() != 1) comm.wait(s, request);
      while (!comm.done(request)) std::this_thread::yield();
    });
    EXPECT_EQ(text, "rank 1: train.idx: record 7 is cut short");
  });
  EXPECT_EQ(shared.aborted, 3);
}

// A rank whose engine cannot be made: all ranks say why.
TEST(EngineErrors, AnEngineThatCannotBeMadeIsToldToAll) {
  EngineControl control;
  run_local_ranks(2, [&](Communicator& host) {
    const auto make = [&](Communicator& side, const Look& look) {
      if (side.rank() == 1) throw Error(ErrorKind::peer, "NCCL on cuda:1", "no route");
      for (;;) {  // as it waits for peers
        look("the engine", std::chrono::steady_clock::now());
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      return make_cpu_engine(control)(side, look);
    };
    EXPECT_EQ(contract::error_of(ErrorKind::peer,
                                 [&] { make_engine_communicator(host, kCpu, "engine", {}, make); }),
              "NCCL on cuda:1: no route");
  });
}

}  // namespace
}  // namespace peal
