// What the device decides in a step, and when the host reads of it.
#include "launcher/step_control.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/allocations.h"

namespace peal::step_control_test {
namespace {

constexpr std::size_t kSlots = 128;  // bytes

struct Steps {
  explicit Steps(bool late) : control(kSlots, kCpu, late, /*scaled=*/false) {}

  void step(std::int64_t number, float loss, float second = 5) {
    slots.assign(kSlots / sizeof(float), 1);
    slots[0] = second;
    slots[3] = loss;
    control.take_slots(stream, number, reinterpret_cast<std::byte*>(slots.data()), 3 * 4);
    *control.norm().as<double>() = static_cast<double>(number) / 2;
    if (number % 2 == 0) control.take_norm(stream);
    control.end(stream);
  }
  float go() const { return control.control().as<float>()[0]; }

  Stream stream;
  StepControl control;
  std::vector<float> slots;
};

TEST(CpuStepControl, GivesEachStepOnceAtItsTime) {
  Steps prompt(/*late=*/false), late(/*late=*/true);
  EXPECT_EQ(prompt.go(), 1);
  EXPECT_EQ(*late.control.factor().as<float>(), 1);
  for (std::int64_t step = 0; step < 5; ++step) {
    const auto loss = static_cast<float>(step) + 0.5f;
    prompt.step(step, loss);
    late.step(step, loss);
    const StepValues& now = prompt.control.due();
    EXPECT_EQ(now.step, step);
    EXPECT_EQ(now.slot(12), loss);
    EXPECT_EQ(now.slot(0), 5);
    EXPECT_EQ(now.has_norm, step % 2 == 0);
    if (now.has_norm) {
      EXPECT_EQ(now.decided().norm, static_cast<double>(step) / 2);
    }
    const StepValues& before = late.control.due();
    EXPECT_EQ(before.step, step - 1);
    if (step > 0) {
      EXPECT_EQ(before.slot(12), loss - 1);
      EXPECT_EQ(before.has_norm, step % 2 == 1);
    }
    EXPECT_EQ(late.control.newest().step, step);
  }
}

TEST(CpuStepControl, ABadLossClosesItForGood) {
  Steps prompt(/*late=*/false), late(/*late=*/true);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  late.step(0, 1, nan);
  EXPECT_EQ(late.go(), 1) << "another slot is not the loss";
  EXPECT_EQ(late.slots[7], 1);
  late.step(1, nan);
  EXPECT_EQ(late.go(), 0);
  EXPECT_EQ(late.slots, std::vector<float>(kSlots / 4, 0)) << "so that averages do not move";
  EXPECT_TRUE(std::isnan(late.control.newest().slot(12))) << "the host is told all the same";
  late.step(2, 1);
  EXPECT_EQ(late.go(), 0);
  EXPECT_EQ(late.slots[7], 0);
  prompt.step(0, nan);
  EXPECT_EQ(prompt.go(), 1) << "the host looks itself";
}

TEST(CpuStepControl, TakesNothingFromTheHeap) {
  Steps late(/*late=*/true);
  late.step(0, 1);
  EXPECT_EQ(count_allocations([&] {
              late.control.take_slots(late.stream, 1,
                                      reinterpret_cast<std::byte*>(late.slots.data()), 12);
              late.control.take_norm(late.stream);
              late.control.end(late.stream);
              late.control.due();
            }),
            0);
}

}  // namespace
}  // namespace peal::step_control_test
