// A failure is told in all communicators of a family before the rank waits until that is sent.
#include "comm/family.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <mutex>
#include <string>

#include "core/base/error.h"

namespace peal {
namespace {

// Its messages leave once `needs` has been told of the failure, too.
class Quiet final : public Transport {
 public:
  void run(const Call&) override {}
  void abort(const Cause& cause) override {
    cause_ = cause;
    failed_ = true;
  }
  const Cause* failure() override { return failed_ ? &cause_ : nullptr; }
  void wait_elsewhere(bool) override {}
  std::string_view way(const Call&) override { return "quiet"; }
  bool told() override {
    ++asked;
    left = takes_messages && (needs == nullptr || needs->failed_);
    return left;
  }

  const Quiet* needs = nullptr;
  bool takes_messages = true;
  bool left = false;
  int asked = 0;

 private:
  Cause cause_;
  bool failed_ = false;
};

struct Member {
  explicit Member(Family& family) : flight(watch, mutex) {
    watch.names = {"rank 0"};
    family.join(transport, flight);
  }
  Watch watch;
  std::mutex mutex;
  FlightRecorder flight;
  Quiet transport;
};

TEST(Family, TellsInAllCommunicatorsBeforeItWaits) {
  Family family;
  Member first(family), second(family);
  first.transport.needs = &second.transport;
  const Cause cause = make_cause(0, exit_code(ErrorKind::input), "job", "wrong");
  family.fail(cause, nullptr);
  EXPECT_TRUE(first.transport.left);
  EXPECT_TRUE(second.transport.left);
  EXPECT_EQ(family.failure()->message, cause.message);
}

TEST(Family, APeerThatTakesNothingKeepsItOnce) {
  Family family;
  std::deque<Member> members;
  for (int i = 0; i < 20; ++i) {
    members.emplace_back(family).transport.takes_messages = false;
  }
  const auto begin = std::chrono::steady_clock::now();
  family.fail(make_cause(0, exit_code(ErrorKind::input), "job", "wrong"), nullptr);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(took.count(), kTimeToTell);
  EXPECT_LT(took.count(), 10 * kTimeToTell);  // half of what one wait for each would take
  EXPECT_GT(members.front().transport.asked, 1);
}

}  // namespace
}  // namespace peal
