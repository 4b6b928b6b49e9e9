// The contract over ranks that are threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "core/base/error.h"
#include "tests/comm/contract_blocks.h"
#include "tests/comm/late.h"

namespace peal {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class Local : public ::testing::TestWithParam<int> {
 protected:
  static void run(const std::function<void(Communicator&)>& test) {
    run_local_ranks(GetParam(), [&](Communicator& comm) {
      comm.set_deadline(60);
      test(comm);
    });
  }
};

TEST_P(Local, AllReduce) {
  run([](Communicator& comm) {
    contract::for_every_dtype([&]<typename T>() { contract::all_reduce<T>(comm); });
  });
}
TEST_P(Local, HalfSumsRoundOnce) {
  run(contract::half_sums_round_once<contract::F16>);
  run(contract::half_sums_round_once<contract::Bf16>);
}
TEST_P(Local, RootsAndBlocks) {
  run([](Communicator& comm) {
    contract::for_every_dtype(
        [&]<typename T>() { contract::roots_and_blocks<T>(comm, contract::Memory::own); });
  });
}
TEST_P(Local, SendAndReceive) {
  run([](Communicator& comm) {
    contract::for_every_dtype(
        [&]<typename T>() { contract::send_and_receive<T>(comm, contract::Memory::own); });
  });
}
TEST_P(Local, Groups) {
  run([](Communicator& comm) {
    contract::for_every_dtype(
        [&]<typename T>() { contract::all_reduce_groups<T>(comm, contract::Memory::own); });
  });
}
TEST_P(Local, RaggedCallsInFlight) {
  run(contract::ragged_calls_in_flight);
}
TEST_P(Local, CallsRunInOrder) {
  run(contract::calls_run_in_order);
}
TEST_P(Local, PollingMakesProgress) {
  run(contract::polling_makes_progress);
}
TEST_P(Local, TreeIsInvariant) {
  run([](Communicator& comm) {
    contract::tree_is_invariant(comm, 12);
    contract::tree_scatters(comm, 9);
  });
}
TEST_P(Local, BucketsOfEveryReduction) {
  run([](Communicator& comm) {
    contract::buckets_match(comm, Reduction::repeatable, 1);
    contract::buckets_match(comm, Reduction::fast, 1);
    for (const int v : {8, 11}) contract::buckets_match(comm, Reduction::rank_invariant, v);
    contract::sharded_buckets_match(comm, Reduction::rank_invariant, 11);
    contract::sharded_buckets_match(comm, Reduction::repeatable, 1);
    contract::sharded_buckets_match(comm, Reduction::fast, 1);
  });
}
TEST_P(Local, KnowsItsPlace) {
  std::atomic<int> ranks{0};
  run([&](Communicator& comm) {
    EXPECT_EQ(comm.world_size(), GetParam());
    EXPECT_EQ(comm.local_size(), GetParam());
    EXPECT_EQ(comm.local_rank(), comm.rank());
    EXPECT_EQ(comm.backend(), "local");
    EXPECT_EQ(comm.rank_name(0), "rank 0");
    EXPECT_THROW(comm.rank_name(comm.world_size()), Error);
    ranks += 1 << comm.rank();
  });
  EXPECT_EQ(ranks, (1 << GetParam()) - 1);
}

INSTANTIATE_TEST_SUITE_P(Ranks, Local, ::testing::Range(1, 9));

TEST(Single, FollowsTheContract) {
  const auto comm = make_single_communicator();
  EXPECT_EQ(comm->backend(), "single");
  contract::all_reduce<float>(*comm);
  contract::roots_and_blocks<float>(*comm, contract::Memory::shared);
  contract::all_reduce_groups<float>(*comm, contract::Memory::own);
  contract::tree_is_invariant(*comm, 12);
  contract::tree_scatters(*comm, 5);
  contract::buckets_match(*comm, Reduction::rank_invariant, 5);
  contract::sharded_buckets_match(*comm, Reduction::rank_invariant, 5);
}

TEST(GradientBuckets, TheLastBucketIsSmall) {
  const auto comm = make_single_communicator();
  Stream s;
  GradientBuckets buckets(*comm, 2'768'000, {std::size_t{1} << 20, Reduction::fast, 1});
  buckets.ready(s, 2'768'000);
  std::vector<std::size_t> sizes;
  buckets.finish(s, [&](std::size_t begin, std::size_t end) { sizes.push_back(end - begin); });
  ASSERT_EQ(sizes.size(), 4u);
  EXPECT_EQ(sizes[0], std::size_t{1} << 20);
  EXPECT_LE(sizes.back(), std::size_t{1} << 17);
}

// Slices come from the back to the front on one rank and in a mixed order on another.
TEST(GradientBuckets, SlicesBecomeFinalInAnyOrder) {
  run_local_ranks(2, [](Communicator& comm) {
    constexpr std::size_t kSlice = 100, kSlices = 37;
    Stream s;
    GradientBuckets buckets(comm, kSlice * kSlices, {512, Reduction::fast, 1});
    for (int step = 0; step < 3; ++step) {
      auto* x = reinterpret_cast<float*>(buckets.partial(0));
      std::fill_n(x, kSlice * kSlices / sizeof(float), static_cast<float>(comm.rank() + step));
      for (std::size_t i = 0; i < kSlices; ++i) {
        const std::size_t k = comm.rank() == 0 ? kSlices - 1 - i : i * 10 % kSlices;
        buckets.ready(s, k * kSlice, (k + 1) * kSlice);
      }
      EXPECT_THROW(buckets.ready(s, 0, 4), Error);  // twice
      buckets.finish(s);
      for (std::size_t i = 0; i < kSlice * kSlices / sizeof(float); ++i) {
        ASSERT_EQ(x[i], static_cast<float>(1 + 2 * step));
      }
    }
    EXPECT_THROW(buckets.ready(s, 0, kSlice * kSlices + 1), Error);
    EXPECT_THROW(buckets.ready(s, 8, 4), Error);
  });
}

TEST(GradientBuckets, RefusesToFinishEarly) {
  const auto comm = make_single_communicator();
  Stream s;
  GradientBuckets buckets(*comm, 4000, {1024, Reduction::fast, 1});
  buckets.ready(s, 3000);
  EXPECT_THROW(buckets.finish(s), Error);
}

// Runs `test` on `ranks` threads and returns each rank's error.
std::vector<std::optional<Error>> errors_of(int ranks,
                                            const std::function<void(Communicator&)>& test) {
  std::vector<std::optional<Error>> errors(static_cast<std::size_t>(ranks));
  run_local_ranks(ranks, [&](Communicator& comm) {
    try {
      test(comm);
    } catch (const Error& error) {
      errors[static_cast<std::size_t>(comm.rank())] = error;
    }
  });
  return errors;
}

TEST(Failure, RanksThatCallDifferentThingsAllSayBoth) {
  const auto errors = errors_of(3, [](Communicator& comm) {
    Stream s;
    std::vector<float> x(comm.rank() == 2 ? 11 : 10);
    comm.wait(s, comm.all_reduce(s, "loss", contract::view(x), contract::view(x), ReduceOp::sum));
  });
  for (const auto& error : errors) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::numeric);
    EXPECT_THAT(error->what(), HasSubstr("all_reduce \"loss\" (sum, f32, 10 elements) on rank 0"));
    EXPECT_THAT(error->what(), HasSubstr("all_reduce \"loss\" (sum, f32, 11 elements) on rank 2"));
  }
}

TEST(Failure, EveryPartOfACallIsCompared) {
  const auto differs = [](const std::function<Request(Communicator&, Stream&, Tensor)>& call) {
    for (const auto& error : errors_of(2, [&](Communicator& comm) {
           Stream s;
           std::vector<float> x(4);
           comm.wait(s, call(comm, s, contract::view(x)));
         })) {
      ASSERT_TRUE(error);
      EXPECT_EQ(error->kind(), ErrorKind::numeric);
    }
  };
  const std::string long_name(80, 'n');
  differs([&](Communicator& c, Stream& s, Tensor x) {
    return c.all_reduce(s, cat(long_name, c.rank()), x, x, ReduceOp::sum);
  });
  differs([](Communicator& c, Stream& s, Tensor x) {
    return c.all_reduce(s, "a", x, x, c.rank() == 0 ? ReduceOp::sum : ReduceOp::max);
  });
  differs([](Communicator& c, Stream& s, Tensor x) {
    if (c.rank() == 0) x.dtype = DType::i32;
    return c.all_reduce(s, "a", x, x, ReduceOp::sum);
  });
  differs([](Communicator& c, Stream& s, Tensor x) { return c.broadcast(s, "a", x, c.rank()); });
  differs([](Communicator& c, Stream& s, Tensor x) {
    return c.rank() == 0 ? c.barrier(s, "a") : c.broadcast(s, "a", x, 0);
  });
}

TEST(Failure, TheDeadlineNamesTheLateRankAndWhatItFinished) {
  GaveUp others;
  std::atomic<bool> there{false};  // rank 1, which is not late
  const auto errors = errors_of(3, [&](Communicator& comm) {
    const auto end = others.at_end(comm.rank() == 0);
    Stream s;
    std::vector<float> x(10);
    comm.set_step(1203);
    const auto view = contract::view(x);
    comm.wait(s, comm.all_reduce(s, "bucket 6", view, view, ReduceOp::sum));
    comm.set_deadline(comm.rank() == 0 ? 1 : 30);
    if (comm.rank() == 0) there.wait(false);
    if (comm.rank() == 2) others.wait();
    const Request request = comm.all_reduce(s, "bucket 7", view, view, ReduceOp::sum);
    if (comm.rank() == 1) {
      there = true;
      there.notify_all();
    }
    comm.wait(s, request);
  });
  for (const auto& error : errors) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::peer);
    EXPECT_STREQ(error->what(),
                 "rank 0 step 1203: waited 1 s in all_reduce \"bucket 7\"; rank 2 last finished "
                 "\"bucket 6\"");
  }
}

// What all of three ranks say when rank 2 makes another call.
void expect_mismatch(const std::string& message,
                     const std::function<Request(Communicator&, Stream&, bool odd)>& call) {
  for (const auto& error : errors_of(3, [&](Communicator& comm) {
         Stream s;
         comm.wait(s, call(comm, s, comm.rank() == 2));
       })) {
    ASSERT_TRUE(error) << "nothing was thrown; wanted " << message;
    EXPECT_EQ(error->kind(), ErrorKind::numeric);
    EXPECT_THAT(error->what(), StartsWith("ranks out of step: call 1 is " + message));
  }
}

TEST(Mismatch, OfRootsCountsAndTensorsIsSaid) {
  std::vector<std::array<float, 60>> memory(3);
  const auto tensor = [&](const Communicator& comm, std::int64_t first, std::int64_t count) {
    return Tensor{memory[static_cast<std::size_t>(comm.rank())].data() + first, {count}};
  };
  expect_mismatch(
      "reduce \"r\" (sum, root 0, f32, 4 elements) on rank 0 but reduce \"r\" (sum, root 1, f32, 4 "
      "elements) on rank 2",
      [&](Communicator& comm, Stream& s, bool odd) {
        const Tensor x = tensor(comm, 0, 4);
        return comm.reduce(s, "r", x, x, ReduceOp::sum, odd ? 1 : 0);
      });
  expect_mismatch(
      "gather \"g\" (root 0, f32, 4 elements) on rank 0 but scatter \"g\" (root 0, f32, 4 "
      "elements) "
      "on rank 2",
      [&](Communicator& comm, Stream& s, bool odd) {
        const Tensor x = tensor(comm, 0, 4), all = tensor(comm, 10, 12);
        return odd ? comm.scatter(s, "g", all, x, 0) : comm.gather(s, "g", x, all, 0);
      });
  expect_mismatch(
      "all_gather \"g\" (f32, 6 elements in blocks of 1, 2, 3) on rank 0 but all_gather \"g\" "
      "(f32, "
      "6 elements in blocks of 2, 1, 3) on rank 2",
      [&](Communicator& comm, Stream& s, bool odd) {
        const std::vector<std::int64_t> right{1, 2, 3}, wrong{2, 1, 3};
        return comm.all_gather(s, "g", tensor(comm, 0, comm.rank() + 1), tensor(comm, 10, 6),
                               odd ? wrong : right);
      });
  expect_mismatch(
      "all_reduce \"t\" (sum, f32, 10 elements in tensors of 4, 6) on rank 0 but all_reduce \"t\" "
      "(sum, f32, 10 elements in tensors of 5, 5) on rank 2",
      [&](Communicator& comm, Stream& s, bool odd) {
        const std::int64_t first = odd ? 5 : 4;
        const Tensor group[] = {tensor(comm, 0, first), tensor(comm, first, 10 - first)};
        return comm.all_reduce_group(s, "t", group, group, ReduceOp::sum);
      });
  expect_mismatch(
      "all_to_all \"a\" (f32, ragged) but rank 2 sends 2 elements to rank 0, which expects 1",
      [&](Communicator& comm, Stream& s, bool odd) {
        const std::vector<std::int64_t> ones{1, 1, 1}, more{2, 1, 1};
        return comm.all_to_all(s, "a", tensor(comm, 0, odd ? 4 : 3), tensor(comm, 10, 3),
                               odd ? more : ones, ones);
      });
}

// Ranks 0 and 2 make calls that do not match; rank 1 waits for them elsewhere. All say the same.
void expect_pair_mismatch(
    const std::string& message,
    const std::function<Request(Communicator&, Stream&, const Tensor&)>& one,
    const std::function<Request(Communicator&, Stream&, const Tensor&)>& two) {
  for (const auto& error : errors_of(3, [&](Communicator& comm) {
         Stream s;
         std::vector<float> x(4);
         if (comm.rank() == 0) comm.wait(s, one(comm, s, contract::view(x)));
         if (comm.rank() == 2) comm.wait(s, two(comm, s, contract::view(x)));
         comm.wait(s, comm.barrier(s, "end"));
       })) {
    ASSERT_TRUE(error) << "nothing was thrown; wanted " << message;
    EXPECT_EQ(error->kind(), ErrorKind::numeric);
    EXPECT_EQ(error->what(), "ranks out of step: call 1 between two ranks is " + message +
                                 "; one must receive what the other sends");
  }
}

TEST(Mismatch, OfSendAndRecvIsSaid) {
  expect_pair_mismatch(
      "send \"a\" (to rank 2, f32, 4 elements) on rank 0 but send \"a\" (to rank 0, f32, 4 "
      "elements) "
      "on rank 2",
      [](auto& comm, Stream& s, const Tensor& x) { return comm.send(s, "a", x, 2); },
      [](auto& comm, Stream& s, const Tensor& x) { return comm.send(s, "a", x, 0); });
  expect_pair_mismatch(
      "recv \"a\" (from rank 2, f32, 4 elements) on rank 0 but send \"b\" (to rank 0, f32, 4 "
      "elements) on rank 2",
      [](auto& comm, Stream& s, const Tensor& x) { return comm.recv(s, "a", x, 2); },
      [](auto& comm, Stream& s, const Tensor& x) { return comm.send(s, "b", x, 0); });
  expect_pair_mismatch(
      "send \"a\" (to rank 2, f32, 4 elements) on rank 0 but recv \"a\" (from rank 0, i32, 3 "
      "elements) on rank 2",
      [](auto& comm, Stream& s, const Tensor& x) { return comm.send(s, "a", x, 2); },
      [](auto& comm, Stream& s, const Tensor& x) {
        return comm.recv(s, "a", Tensor{x.data, {3}, DType::i32}, 0);
      });
}

TEST(Failure, ASendThatNobodyTakesEndsAtTheDeadline) {
  const auto errors = errors_of(3, [](Communicator& comm) {
    Stream s;
    std::vector<float> x(4);
    comm.set_deadline(comm.rank() == 0 ? 0.5 : 30);
    if (comm.rank() == 0) comm.wait(s, comm.send(s, "a", contract::view(x), 2));
    comm.wait(s, comm.barrier(s, "end"));
  });
  for (const auto& error : errors) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::peer);
    EXPECT_STREQ(error->what(), "rank 0: waited 0.5 s in send \"a\"; rank 2 has not come to it");
  }
}

TEST(Failure, ARankThatLeavesIsNoticedByItsReceiver) {
  const auto errors = errors_of(2, [](Communicator& comm) {
    Stream s;
    std::vector<float> x(4);
    if (comm.rank() == 0) comm.wait(s, comm.recv(s, "a", contract::view(x), 1));
  });
  ASSERT_TRUE(errors[0]);
  EXPECT_THAT(errors[0]->what(), HasSubstr("rank 1 has left, waited for in recv \"a\""));
}

TEST(Failure, BrokenStaysBroken) {
  std::atomic<bool> failed{false};
  errors_of(2, [&](Communicator& comm) {
    Stream s;
    comm.set_deadline(comm.rank() == 0 ? 0.05 : 30);
    while (comm.rank() == 1 && !failed) std::this_thread::yield();
    std::string first;
    try {
      comm.wait(s, comm.barrier(s, "start"));
      ADD_FAILURE() << "rank " << comm.rank() << " passed";
    } catch (const Error& error) {
      first = error.what();
      EXPECT_THAT(first, HasSubstr("rank 1 has finished no call yet"));
    }
    failed = true;
    try {
      comm.wait(s, comm.barrier(s, "again"));
      ADD_FAILURE() << "rank " << comm.rank() << " passed";
    } catch (const Error& error) {
      EXPECT_EQ(error.what(), first);
    }
  });
}

TEST(Failure, TheFirstCauseReachesEveryRankThatWaits) {
  const auto start = std::chrono::steady_clock::now();
  const auto errors = errors_of(4, [](Communicator& comm) {
    Stream s;
    if (comm.rank() == 1) {
      comm.abort("train.idx: record 7 is cut short", 2);
      comm.abort("a later cause", 3);
    }
    comm.wait(s, comm.barrier(s, "epoch"));
  });
  for (const auto& error : errors) {
    ASSERT_TRUE(error);
    EXPECT_STREQ(error->what(), "rank 1: train.idx: record 7 is cut short");
    EXPECT_EQ(exit_code(error->kind()), 2);
  }
  // Nobody waits for the deadline of 300 s.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST(Failure, RunLocalRanksThrowsWhatTheFirstRankThrew) {
  const auto run = [] {
    run_local_ranks(3, [](Communicator& comm) {
      Stream s;
      if (comm.rank() == 2) throw std::runtime_error("no more disk");
      comm.wait(s, comm.barrier(s, "end"));
    });
  };
  EXPECT_THROW(
      {
        try {
          run();
        } catch (const std::runtime_error& error) {
          EXPECT_STREQ(error.what(), "no more disk");
          throw;
        }
      },
      std::runtime_error);
}

TEST(Failure, ARankThatLeavesIsNoticedBeforeTheDeadline) {
  const auto errors = errors_of(2, [](Communicator& comm) {
    Stream s;
    if (comm.rank() == 0) comm.wait(s, comm.barrier(s, "end"));
  });
  ASSERT_TRUE(errors[0]);
  EXPECT_THAT(errors[0]->what(), HasSubstr("rank 1 has left"));
}

// What every rank of `ranks` says of a wrong call.
void expect_refused(int ranks, const std::string& message,
                    const std::function<void(Communicator&, Stream&)>& call) {
  for (const auto& error : errors_of(ranks, [&](Communicator& comm) {
         Stream s;
         call(comm, s);
       })) {
    ASSERT_TRUE(error) << "nothing was thrown; wanted " << message;
    EXPECT_EQ(error->kind(), ErrorKind::input);
    EXPECT_EQ(error->what(), message);
  }
}

TEST(WrongArguments, OfReductions) {
  std::vector<float> x(4), y(5);
  const Tensor a = contract::view(x), b = contract::view(y), none{nullptr, {4}};
  const Tensor truth{x.data(), {4}, DType::boolean}, shifted{x.data() + 1, {3}};
  expect_refused(1, "all_reduce \"a\": x has 4 elements and y 5; 4 and 5 must be equal",
                 [&](auto& comm, Stream& s) { comm.all_reduce(s, "a", a, b, ReduceOp::sum); });
  expect_refused(1, "all_reduce \"a\": x has no memory", [&](auto& comm, Stream& s) {
    comm.all_reduce(s, "a", none, none, ReduceOp::sum);
  });
  const std::string mean = "mean of bool; allowed: sum and max (or), product and min (and)";
  expect_refused(1, "all_reduce \"a\": " + mean, [&](auto& comm, Stream& s) {
    comm.all_reduce(s, "a", truth, truth, ReduceOp::mean);
  });
  expect_refused(2, "reduce_scatter \"a\": " + mean, [&](auto& comm, Stream& s) {
    comm.reduce_scatter(s, "a", truth, truth, ReduceOp::mean);
  });
  expect_refused(
      1, "all_reduce \"a\": x and y overlap; in place, one begins at element 0 of the other",
      [&](auto& comm, Stream& s) {
        comm.all_reduce(s, "a", Tensor{x.data(), {3}}, shifted, ReduceOp::sum);
      });
  expect_refused(2, "reduce \"a\": root 2 is not in 0..1",
                 [&](auto& comm, Stream& s) { comm.reduce(s, "a", a, a, ReduceOp::sum, 2); });
  const Tensor two[] = {a, a};
  expect_refused(1, "all_reduce_tree \"a\": 2 partial sums; rank 0 of 1 with 4 virtual ranks has 1",
                 [&](auto& comm, Stream& s) { comm.all_reduce_tree(s, "a", 4, two, a); });
}

TEST(WrongArguments, OfGroups) {
  std::vector<float> x(4);
  const Tensor a = contract::view(x), truth{x.data(), {4}, DType::boolean};
  const std::vector<Tensor> one{a}, two{a, a}, mixed{a, truth};
  expect_refused(
      2,
      "all_reduce_group \"g\": 2 tensors x and 1 y; as many of each are needed, and at "
      "least one",
      [&](auto& comm, Stream& s) { comm.all_reduce_group(s, "g", two, one, ReduceOp::sum); });
  expect_refused(
      2, "all_reduce_group \"g\": tensor 1 is bool but tensor 0 is f32",
      [&](auto& comm, Stream& s) { comm.all_reduce_group(s, "g", mixed, mixed, ReduceOp::sum); });
}

TEST(WrongArguments, OfBlocks) {
  std::vector<float> x(10), y(10);
  const Tensor all = contract::view(x), other = contract::view(y);
  const auto part = [&](std::int64_t count) { return Tensor{y.data(), {count}}; };
  const std::vector<std::int64_t> one{10}, negative{11, -1}, equal{5, 5};
  expect_refused(2, "all_gather \"b\": y has 10 elements; one block for each of 2 ranks is 6",
                 [&](auto& comm, Stream& s) { comm.all_gather(s, "b", part(3), all); });
  expect_refused(2, "reduce_scatter \"b\": 1 counts; one for each of 2 ranks is needed",
                 [&](auto& comm, Stream& s) {
                   comm.reduce_scatter(s, "b", all, part(5), ReduceOp::sum, one);
                 });
  expect_refused(2, "all_gather \"b\": counts[1] is -1, below 0",
                 [&](auto& comm, Stream& s) { comm.all_gather(s, "b", part(5), all, negative); });
  expect_refused(2, "gather \"b\": x has 4 elements; the counts ask for 5",
                 [&](auto& comm, Stream& s) { comm.gather(s, "b", part(4), all, 0, equal); });
  expect_refused(1, "scatter \"b\": y is f32 but x is u8", [&](auto& comm, Stream& s) {
    comm.scatter(s, "b", Tensor{x.data(), {5}, DType::u8}, part(5), 0);
  });
  expect_refused(1,
                 "scatter \"b\": x and y overlap; in place, one begins at element 0 of the other",
                 [&](auto& comm, Stream& s) {
                   const Tensor second{x.data() + 1, {5}}, first{x.data(), {5}};
                   comm.scatter(s, "b", first, second, 0);
                 });
  expect_refused(2, "all_to_all \"b\": x and y overlap; this call cannot work in place",
                 [&](auto& comm, Stream& s) { comm.all_to_all(s, "b", all, all); });
  expect_refused(3, "all_to_all \"b\": x has 10 elements; a multiple of 3 (ranks) is needed",
                 [&](auto& comm, Stream& s) { comm.all_to_all(s, "b", all, other); });
  expect_refused(2, "all_to_all \"b\": 0 receive counts; one for each of 2 ranks is needed",
                 [&](auto& comm, Stream& s) { comm.all_to_all(s, "b", all, other, equal); });
  expect_refused(2, "send \"b\": rank 2 is not in 0..1",
                 [&](auto& comm, Stream& s) { comm.send(s, "b", all, 2); });
  expect_refused(1, "recv \"b\": rank 0 with itself; another is needed",
                 [&](auto& comm, Stream& s) { comm.recv(s, "b", all, 0); });
  expect_refused(1, "broadcast \"b\": root -1 is not in 0..0",
                 [&](auto& comm, Stream& s) { comm.broadcast(s, "b", all, -1); });
}

TEST(Agreement, PassesWhenAllAgree) {
  run_local_ranks(3, [](Communicator& comm) {
    agree(comm, {{"job", "abc"}, {"build", std::string(100'000, 'x')}});
    agree_on_error(comm, nullptr);
  });
}

TEST(Agreement, NamesTheOddRankOutOnEveryRank) {
  for (const auto& error : errors_of(3, [](Communicator& comm) {
         agree(comm, {{"build", "1"}, {"job", comm.rank() == 1 ? "abd" : "abc"}});
       })) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::numeric);
    EXPECT_STREQ(
        error->what(),
        "rank 1: job is \"abd\" but rank 0 has \"abc\"; it must be the same on every rank");
  }
}

TEST(Agreement, OnATieTheHigherRankIsOdd) {
  for (const auto& error : errors_of(2, [](Communicator& comm) {
         agree(comm, {{"job", cat("job ", comm.rank())}});
       })) {
    ASSERT_TRUE(error);
    EXPECT_THAT(error->what(), StartsWith("rank 1: job is \"job 1\" but rank 0 has \"job 0\""));
  }
}

TEST(Agreement, LongValuesAreCutAroundTheDifference) {
  for (const auto& error : errors_of(2, [](Communicator& comm) {
         std::string value(10'000, 'x');
         value[5000] = comm.rank() == 0 ? 'a' : 'b';
         agree(comm, {{"job", value}});
       })) {
    ASSERT_TRUE(error);
    EXPECT_LT(error->message().size(), 400u);
    EXPECT_THAT(error->what(), HasSubstr("xb"));
    EXPECT_THAT(error->what(), HasSubstr("xa"));
  }
}

TEST(Agreement, FactsThatOneRankLacksAreNamed) {
  for (const auto& error : errors_of(3, [](Communicator& comm) {
         std::vector<Fact> facts{{"job", "1"}};
         if (comm.rank() == 2) facts.push_back({"resume", "step 7"});
         agree(comm, facts);
       })) {
    ASSERT_TRUE(error);
    EXPECT_THAT(error->what(), StartsWith("rank 2: resume is \"step 7\" but rank 0 has nothing"));
  }
}

TEST(Agreement, OneRanksErrorEndsAllAlike) {
  const auto errors = errors_of(3, [](Communicator& comm) {
    const Error mine(ErrorKind::input, cat("data/", comm.rank()), "label 12 is not in 0..9");
    agree_on_error(comm, comm.rank() == 0 ? nullptr : &mine);
  });
  for (std::size_t r = 0; r < errors.size(); ++r) {
    ASSERT_TRUE(errors[r]);
    EXPECT_EQ(errors[r]->kind(), ErrorKind::input);
    EXPECT_STREQ(errors[r]->what(), r == 1 ? "data/1: label 12 is not in 0..9"
                                           : "rank 1: data/1: label 12 is not in 0..9");
  }
}

}  // namespace
}  // namespace peal
