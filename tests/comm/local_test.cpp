// The contract over ranks that are threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "core/base/error.h"
#include "tests/comm/contract.h"

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

TEST_P(Local, AllReduceF32) {
  run(contract::all_reduce<float>);
}
TEST_P(Local, AllReduceF64) {
  run(contract::all_reduce<double>);
}
TEST_P(Local, AllReduceI32) {
  run(contract::all_reduce<std::int32_t>);
}
TEST_P(Local, AllReduceI64) {
  run(contract::all_reduce<std::int64_t>);
}
TEST_P(Local, AllReduceU8) {
  run(contract::all_reduce<std::uint8_t>);
}
TEST_P(Local, ScatterAndGather) {
  run(contract::scatter_and_gather);
}
TEST_P(Local, Broadcast) {
  run(contract::broadcast_from_every_root);
}
TEST_P(Local, CallsRunInOrder) {
  run(contract::calls_run_in_order);
}
TEST_P(Local, PollingMakesProgress) {
  run(contract::polling_makes_progress);
}
TEST_P(Local, TreeIsInvariant) {
  run([](Communicator& comm) { contract::tree_is_invariant(comm, 12); });
}
TEST_P(Local, BucketsOfEveryReduction) {
  run([](Communicator& comm) {
    contract::buckets_match(comm, Reduction::repeatable, 1);
    contract::buckets_match(comm, Reduction::fast, 1);
    for (const int v : {8, 11}) contract::buckets_match(comm, Reduction::rank_invariant, v);
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

INSTANTIATE_TEST_SUITE_P(Ranks, Local, ::testing::Values(1, 2, 3, 4, 5, 8));

TEST(Single, FollowsTheContract) {
  const auto comm = make_single_communicator();
  EXPECT_EQ(comm->backend(), "single");
  contract::all_reduce<float>(*comm);
  contract::scatter_and_gather(*comm);
  contract::tree_is_invariant(*comm, 12);
  contract::buckets_match(*comm, Reduction::rank_invariant, 5);
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
  const auto errors = errors_of(3, [](Communicator& comm) {
    Stream s;
    std::vector<float> x(10);
    comm.set_step(1203);
    const auto view = contract::view(x);
    comm.wait(s, comm.all_reduce(s, "bucket 6", view, view, ReduceOp::sum));
    comm.set_deadline(comm.rank() == 0 ? 1 : 30);
    if (comm.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    comm.wait(s, comm.all_reduce(s, "bucket 7", view, view, ReduceOp::sum));
  });
  for (const auto& error : errors) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::peer);
    EXPECT_STREQ(error->what(),
                 "rank 0 step 1203: waited 1 s in all_reduce \"bucket 7\"; rank 2 last finished "
                 "\"bucket 6\"");
  }
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

TEST(Failure, WrongArgumentsAreRefusedAtTheCall) {
  const auto comm = make_single_communicator();
  Stream s;
  std::vector<float> x(4), y(5);
  const Tensor half{x.data(), {4}, DType::f16}, none{nullptr, {4}};
  const Tensor a = contract::view(x), b = contract::view(y);
  EXPECT_THROW(comm->all_reduce(s, "a", a, b, ReduceOp::sum), Error);
  EXPECT_THROW(comm->all_reduce(s, "a", half, half, ReduceOp::sum), Error);
  EXPECT_THROW(comm->all_reduce(s, "a", none, none, ReduceOp::sum), Error);
  EXPECT_THROW(comm->broadcast(s, "a", a, 1), Error);
  const Tensor two[] = {a, a};
  EXPECT_THROW(comm->all_reduce_tree(s, "a", 4, two, a), Error);
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
