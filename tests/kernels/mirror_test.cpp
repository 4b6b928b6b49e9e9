// What stands between a test and kernels on a device must itself be right: kernels that go wrong on
// purpose. On the CPU, whatever device the others run on.
#include "tests/kernels/mirror.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace peal {
namespace {

Tensor view(std::vector<float>& values, std::size_t first, std::size_t count) {
  return {.data = values.data() + first, .shape = {static_cast<std::int64_t>(count)}};
}

TEST(CpuMirror, BringsBackWhatACallWrites) {
  std::vector<float> x = {1, 2, 3}, y = {4, 5, 6};
  mirrored(kCpu, "double", {view(x, 0, 3)}, {view(y, 0, 3)},
           [&](Stream&, const Tensors& in, const Tensors& out) {
             EXPECT_NE(in[0].data, x.data());
             for (int i = 0; i < 3; ++i) out[0].as<float>()[i] = 2 * in[0].as<float>()[i];
           });
  EXPECT_THAT(y, testing::ElementsAre(2, 4, 6));
  EXPECT_THAT(x, testing::ElementsAre(1, 2, 3));
}

TEST(CpuMirror, LeavesNaNsWhereNothingWasWritten) {
  std::vector<float> y = {4, 5, 6};
  mirrored(kCpu, "half done", {}, {view(y, 0, 3)},
           [](Stream&, const Tensors&, const Tensors& out) { out[0].as<float>()[0] = 1; });
  EXPECT_EQ(y[0], 1);
  EXPECT_TRUE(std::isnan(y[1]) && std::isnan(y[2]));
}

TEST(CpuMirror, KeepsInPlaceWhatIsInPlace) {
  std::vector<float> x = {1, 2, 3, 4};
  const Tensor whole = view(x, 0, 4), part = view(x, 1, 2), tail = view(x, 2, 2);
  mirrored(kCpu, "slices", {whole, part}, {part, tail},
           [](Stream&, const Tensors& in, const Tensors& out) {
             EXPECT_EQ(in[1].data, in[0].as<float>() + 1);
             EXPECT_EQ(out[0].data, in[1].data);
             EXPECT_EQ(out[1].data, in[0].as<float>() + 2);
             out[0].as<float>()[0] = 7;
           });
  EXPECT_THAT(x, testing::ElementsAre(1, 7, 3, 4));
}

TEST(CpuMirror, KeepsTheAlignment) {
  std::vector<float> x(40);
  for (std::size_t first = 0; first < 20; ++first) {
    mirrored(kCpu, "aligned", {view(x, first, 3)}, {}, [&](Stream&, const Tensors& in, auto&) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(in[0].data) % kAlignment,
                reinterpret_cast<std::uintptr_t>(&x[first]) % kAlignment);
    });
  }
}

TEST(CpuMirror, CallsTwiceAndWantsTheSameBits) {
  if (Mirror::exact()) return;
  std::vector<float> x = {1, 2}, y = {4, 5}, pad = {0, 0};
  int calls = 0;
  const auto call = [&](const Tensor& scratch) {
    mirrored(
        kCpu, "moody", {view(x, 0, 2)}, {view(y, 0, 2), view(pad, 0, 2)},
        [&](Stream&, const Tensors&, const Tensors& out) {
          std::fill_n(out[0].as<float>(), 2, 3.0f);
          std::fill_n(out[1].as<float>(), 2, static_cast<float>(++calls));
        },
        scratch);
  };
  call(view(pad, 0, 2));
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(pad[0], 1);
  try {
    call({});
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "moody gave other bits when it was called again");
  }
}

TEST(CpuMirror, NamesTheKernelThatWritesElsewhere) {
  if (Mirror::exact()) return;  // a memory checker looks for that
  std::vector<float> x = {1, 2, 3}, y = {4, 5, 6};
  const auto wrong = [&](const std::function<void(const Tensors&, const Tensors&)>& write) {
    try {
      mirrored(kCpu, "clumsy", {view(x, 0, 3)}, {view(y, 0, 3)},
               [&](Stream&, const Tensors& in, const Tensors& out) { write(in, out); });
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const char* outside = "clumsy wrote outside of its tensors";
  EXPECT_EQ(wrong([](auto&, auto& out) { out[0].template as<float>()[3] = 1; }), outside);
  EXPECT_EQ(wrong([](auto&, auto& out) { out[0].template as<float>()[-1] = 1; }), outside);
  EXPECT_EQ(wrong([](auto& in, auto&) { in[0].template as<float>()[-1] = 1; }), outside);
  EXPECT_EQ(wrong([](auto& in, auto&) { in[0].template as<float>()[2] = 1; }),
            "clumsy changed what it may only read");
}

}  // namespace
}  // namespace peal
