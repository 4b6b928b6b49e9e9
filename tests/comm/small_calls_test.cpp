// Small all-reduces at every size around the lines of a mail, and copies past the caches.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "comm/communicator.h"
#include "comm/reduce.h"
#include "comm/shared.h"
#include "comm/stream_copy.h"
#include "core/base/error.h"

namespace peal {
namespace {

std::uint8_t value(int rank, std::size_t element) {
  return static_cast<std::uint8_t>(7 * rank + 3 * static_cast<int>(element % 89) + 1);
}

TEST(SmallCalls, EverySizeIsExact) {
  for (const int ranks : {1, 2, 3, 5}) {
    run_local_ranks(ranks, [&](Communicator& comm) {
      Stream s;
      for (std::size_t bytes = 0; bytes < 2200; bytes += bytes < 240 || bytes > 1990 ? 1 : 13) {
        std::vector<std::uint8_t> x(bytes), y(bytes, 0xEE);
        for (std::size_t i = 0; i < bytes; ++i) x[i] = value(comm.rank(), i);
        const auto count = static_cast<std::int64_t>(bytes);
        const Tensor from{x.data(), {count}, DType::u8}, to{y.data(), {count}, DType::u8};
        comm.wait(s, comm.all_reduce(s, "apart", from, to, ReduceOp::sum));
        comm.wait(
            s, comm.all_reduce(s, "in place", from, from, ReduceOp::sum, Algorithm::ordered_tree));
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
          std::uint8_t sum = 0;
          for (int r = 0; r < ranks; ++r) sum = static_cast<std::uint8_t>(sum + value(r, i));
          wrong += x[i] != sum || y[i] != sum ? 1 : 0;
        }
        EXPECT_EQ(wrong, 0u) << bytes << " bytes, " << ranks << " ranks";
      }
    });
  }
}

// The first is begun when it is made, the second is not.
TEST(SmallCalls, TwoAtOnceStayApart) {
  run_local_ranks(2, [](Communicator& comm) {
    Stream s;
    for (int round = 0; round < 200; ++round) {
      float x[3] = {1, 2, static_cast<float>(round)}, y = 4;
      const Request first =
          comm.all_reduce(s, "x", {x, {3}, DType::f32}, {x, {3}, DType::f32}, ReduceOp::sum);
      const Request second =
          comm.all_reduce(s, "y", {&y, {1}, DType::f32}, {&y, {1}, DType::f32}, ReduceOp::max);
      comm.wait(s, second);
      comm.wait(s, first);
      EXPECT_EQ(x[0], 2);
      EXPECT_EQ(x[2], static_cast<float>(2 * round));
      EXPECT_EQ(y, 4);
    }
  });
}

// Two partial sums in a mail of one line. The second lies in a page that cannot be read at first:
// whoever copies it stands still there, and then the mail must not have said that it is here.
struct LookedAt {
  static constexpr std::size_t kPage = 4096;
  static inline std::byte* page = nullptr;
  static inline SharedSpace* space = nullptr;
  static inline std::uint64_t arrivals = 0;
  static inline int looks = 0;

  static void look(int) {
    ++looks;
    arrivals = space->state(0).mail[1].lines[0].arrivals;
    mprotect(page, kPage, PROT_READ | PROT_WRITE);
  }
};

TEST(SmallCalls, AMailIsWholeWhenItSaysSo) {
  const auto space = make_thread_space(2);
  Watch watch;
  watch.rank = 0;
  watch.names = {"rank 0", "rank 1"};
  SharedTransport transport(space, watch, Mail::kPayload);
  const TreePlan plan = tree_plan(7, 2);  // rank 0 has two nodes
  ASSERT_EQ(plan.count(0), 2);
  void* page =
      mmap(nullptr, LookedAt::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  const float first = 1, second = 2;
  std::memcpy(page, &second, sizeof second);
  LookedAt::page = static_cast<std::byte*>(page);
  LookedAt::space = space.get();
  Call call;
  call.record.kind = CallKind::all_reduce_tree;
  call.record.dtype = DType::f32;
  call.record.count = call.longest = call.input_elements = 1;
  call.tree = &plan;
  call.inputs[0] = reinterpret_cast<const std::byte*>(&first);
  call.inputs[1] = LookedAt::page;
  call.input_count = 2;

  struct sigaction mine = {}, before = {};
  mine.sa_handler = LookedAt::look;
  ASSERT_EQ(sigaction(SIGSEGV, &mine, &before), 0);
  ASSERT_EQ(mprotect(page, LookedAt::kPage, PROT_NONE), 0);
  transport.begin(call);
  sigaction(SIGSEGV, &before, nullptr);
  EXPECT_EQ(LookedAt::looks, 1);
  EXPECT_EQ(LookedAt::arrivals, 0u);
  const Mail& mail = space->state(0).mail[1];
  EXPECT_EQ(mail.lines[0].arrivals, 1u);
  float values[2];
  mail.get(Mail::kDigest, reinterpret_cast<std::byte*>(values), sizeof values);
  EXPECT_EQ(values[0], first);
  EXPECT_EQ(values[1], second);
  munmap(page, LookedAt::kPage);
}

// After calls that were right, and with mail of as many lines on both sides.
TEST(SmallCalls, AMismatchIsSaidWhateverRunsTheCall) {
  for (int round = 0; round < 50; ++round) {
    run_local_ranks(2, [&](Communicator& comm) {
      Stream s;
      float x[8] = {};
      const auto sum = [&](std::string_view name, std::int64_t count) {
        const Tensor all{x, {count}, DType::f32};
        comm.wait(s, comm.all_reduce(s, name, all, all, ReduceOp::sum));
      };
      for (int i = 0; i < round; ++i) sum("x", 3);
      const bool names = round % 2 == 0, odd = comm.rank() == 1;
      try {
        sum(names && odd ? "y" : "x", !names && odd ? 4 : 3);
        ADD_FAILURE() << "nothing was thrown";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::numeric) << error.what();
      }
    });
  }
}

TEST(StreamCopy, AnyPlaceAndSize) {
  std::vector<std::byte> from(1024), to(1024);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 37 + 11);
  for (std::size_t begin = 0; begin < 130; begin += 3) {
    for (std::size_t bytes = 0; bytes + begin + 1 < 700; bytes += bytes < 200 ? 1 : 61) {
      std::fill(to.begin(), to.end(), std::byte{0});
      stream_copy(to.data() + begin, from.data() + begin % 7, bytes);
      stream_fence();
      EXPECT_EQ(std::memcmp(to.data() + begin, from.data() + begin % 7, bytes), 0);
      EXPECT_EQ(to[begin + bytes], std::byte{0}) << begin << " " << bytes;
      if (begin > 0) {
        EXPECT_EQ(to[begin - 1], std::byte{0}) << begin << " " << bytes;
      }
    }
  }
}

}  // namespace
}  // namespace peal
