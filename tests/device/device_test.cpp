// The device layer on the CPU, and what it says where there is no GPU.
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "core/base/error.h"
#include "core/device/buffer.h"
#include "core/device/stream.h"

namespace peal {
namespace {

constexpr Device kGpu{Device::Kind::cuda, 0};

// Of the Error(input) that `make` throws.
template <typename Make>
std::string refusal(const Make& make) {
  try {
    make();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(CpuStream, WorkHasEndedWhenItsCallReturns) {
  Stream s;
  Event event;
  std::array<std::byte, 100> from, to{};
  from.fill(std::byte{7});
  copy(s, to.data(), from.data(), from.size());
  event.record(s);
  EXPECT_TRUE(event.done());
  EXPECT_EQ(std::memcmp(to.data(), from.data(), to.size()), 0);
  copy(s, to.data(), to.data(), to.size());
  copy(s, nullptr, nullptr, 0);
  s.wait(event);
  event.synchronize();
  s.synchronize();
  EXPECT_EQ(s.handle(), nullptr);
  EXPECT_EQ(s.device(), kCpu);
}

TEST(CpuStream, Moves) {
  Stream a, b = std::move(a);
  Event c, d = std::move(c);
  d.record(b);
  EXPECT_TRUE(d.done());
  EXPECT_EQ(Stream::borrow(nullptr, kCpu).device(), kCpu);
}

TEST(CpuBuffer, IsPinnedAsItIs) {
  Buffer buffer(1000);
  const std::byte* data = buffer.data();
  buffer = pinned(std::move(buffer), kCpu);
  EXPECT_EQ(buffer.data(), data);
  EXPECT_EQ(buffer.size(), 1000u);
}

TEST(CpuDevice, IsAlwaysThere) {
  require_device(kCpu);
  EXPECT_EQ(name_of(kCpu), "cpu");
}

// Whoever asks for a GPU where there is none, or where Peal is built without CUDA, hears one
// sentence. On a machine with a GPU these succeed instead, and tests/gpu has more.
TEST(Gpu, IsThereOrSaysWhyNot) {
  if (cuda_device_count() > 0) {
    require_device(kGpu);
    EXPECT_GT(name_of(kGpu).size(), 0u);
    EXPECT_EQ(Buffer(100, kGpu).size(), 100u);
    return;
  }
  const std::string why = refusal([] { require_device(kGpu); });
  EXPECT_TRUE(why == "cuda:0: built without CUDA" ||
              why.starts_with("cuda:0: no CUDA device is visible: "))
      << why;
  EXPECT_EQ(refusal([] { Buffer(100, kGpu); }), why);
  EXPECT_EQ(refusal([] { Buffer(0, kGpu); }), why);
  EXPECT_EQ(refusal([] { Stream s(kGpu); }), why);
  EXPECT_EQ(refusal([] { Event e(kGpu); }), why);
  EXPECT_EQ(refusal([] { Stream::borrow(nullptr, kGpu); }), why);
  EXPECT_EQ(refusal([] { name_of(kGpu); }), why);
  EXPECT_EQ(refusal([] { pinned(Buffer(100), kGpu); }), why);
}

}  // namespace
}  // namespace peal
