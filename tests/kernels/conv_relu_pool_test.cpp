// The loops of the CPU's ConvReluPool, in every instruction set that this CPU has, against the same
// loops in plain C++: bit for bit, what is saved included.
#include "core/kernels/cpu/conv_relu_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>

#include "core/kernels/cpu/conv_relu_pool_pass.h"
#include "tests/kernels/prepared_reference.h"

namespace peal::cpu::conv_relu_pool {
namespace {

using reference::Owned;
using reference::random_values;
using reference::Vector;

// As many lanes as AVX-512 has.
struct Plain {
  using Floats = std::array<float, kLanes>;
  using Mask = unsigned;
  using Bits = std::uint16_t;
  static constexpr std::int64_t kWidth = kLanes;

  template <class F>
  static Floats each(const F& f) {
    Floats a;
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = f(i);
    return a;
  }
  static bool in(Mask mask, std::size_t i) { return (mask >> i & 1) != 0; }

  static Floats load(const float* from) {
    return each([&](std::size_t i) { return from[i]; });
  }
  static Floats load_some(const float* from, Mask mask) {
    return each([&](std::size_t i) { return in(mask, i) ? from[i] : 0.0f; });
  }
  static void store(float* to, const Floats& a) { std::copy(a.begin(), a.end(), to); }
  static void store_some(float* to, unsigned bits, const Floats& a) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (in(bits, i)) to[i] = a[i];
    }
  }

  static Floats set1(float a) {
    return each([&](std::size_t) { return a; });
  }
  static Floats add(const Floats& a, const Floats& b) {
    return each([&](std::size_t i) { return a[i] + b[i]; });
  }
  static Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
    return each([&](std::size_t i) { return std::fma(a[i], b[i], c[i]); });
  }
  static Floats max(const Floats& a, const Floats& b) {
    return each([&](std::size_t i) { return a[i] > b[i] ? a[i] : b[i]; });
  }
  static Mask greater(const Floats& a, const Floats& b) {
    unsigned bits = 0;
    for (std::size_t i = 0; i < a.size(); ++i) bits |= (a[i] > b[i] ? 1u : 0u) << i;
    return bits;
  }

  static Mask mask(unsigned bits) { return bits; }
  static unsigned bits(Mask mask) { return mask; }
  static Mask select(Mask mask, Mask yes, Mask no) { return (mask & yes) | (~mask & no); }
  static Floats select(Mask mask, const Floats& yes, const Floats& no) {
    return each([&](std::size_t i) { return in(mask, i) ? yes[i] : no[i]; });
  }
  static Floats evens(const Floats& low, const Floats& high) { return every_second(0, low, high); }
  static Floats odds(const Floats& low, const Floats& high) { return every_second(1, low, high); }
  static Floats every_second(std::size_t first, const Floats& low, const Floats& high) {
    return each([&](std::size_t i) {
      const std::size_t from = 2 * i + first;
      return from < low.size() ? low[from] : high[from - low.size()];
    });
  }
};

struct Shapes {
  const char* name;
  Shape x;
  std::int64_t filters, kernel, padding;
  bool training = true;
};

std::ostream& operator<<(std::ostream& out, const Shapes& s) {
  return out << s.name;
}

class CpuConvReluPoolLoops : public testing::TestWithParam<Shapes> {
 protected:
  void SetUp() override {
    const Shapes& shapes = GetParam();
    conv.x = shapes.x;
    conv.w = {shapes.filters, shapes.x[1], shapes.kernel, shapes.kernel};
    conv.padding[0] = conv.padding[1] = shapes.padding;
    conv.bias = true;
    conv.activation = Activation::relu;
    conv.needs_dx = false;
    conv.training = pool.training = shapes.training;
    pool.x = conv.y();
    x = random_values(conv.x, 1);
    w = random_values(conv.w, 2);
  }

  using Bits = std::vector<std::uint32_t>;
  static Bits bits_of(const Owned& owned) {
    Bits bits;
    for (const float value : owned.bits()) bits.push_back(std::bit_cast<std::uint32_t>(value));
    return bits;
  }

  struct Results {
    Bits y, saved, dw, db;
  };

  Results run(LoopsOf loops) const {
    const auto fused = make(conv, pool, loops);
    Stream s;
    const Shape bias{conv.w[0]};
    const Owned x_in = Owned::of(conv.x, x), w_in = Owned::of(conv.w, w),
                b_in = Owned::of(bias, random_values(bias, 3)),
                dy = Owned::of(pool.y(), random_values(pool.y(), 4)),
                saved = Owned::bytes(fused->saved_bytes()),
                scratch = Owned::bytes(fused->scratch_bytes());
    const Owned y(pool.y()), dw(conv.w), db(bias);
    fused->forward(s, x_in, w_in, b_in, y, saved, scratch);
    if (conv.training) fused->backward(s, x_in, w_in, y, dy, saved, {}, dw, db, scratch);
    EXPECT_TRUE(y.guard_intact() && dw.guard_intact() && db.guard_intact() &&
                saved.guard_intact() && scratch.guard_intact());
    return {bits_of(y), bits_of(saved), bits_of(dw), bits_of(db)};
  }

  void expect_plain_bits() const {
    const Results plain = run(loops_of<Plain>);
    struct Set {
      const char* name;
      bool has;
      LoopsOf loops;
    };
    for (const auto& [name, has, loops] :
         {Set{"AVX-512", has_avx512(), avx512_loops},
          Set{"AVX2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
              avx2_loops}}) {
      if (!has) {
        std::printf("%s is not compared: this CPU has none\n", name);
        continue;
      }
      const Results results = run(loops);
      EXPECT_TRUE(results.y == plain.y) << "y of " << name;
      EXPECT_TRUE(results.saved == plain.saved) << "saved of " << name;
      EXPECT_TRUE(results.dw == plain.dw) << "dw of " << name;
      EXPECT_TRUE(results.db == plain.db) << "db of " << name;
    }
  }

  Conv2dSpec conv;
  Pool2dSpec pool;
  Vector x, w;
};

TEST_P(CpuConvReluPoolLoops, EveryInstructionSetGivesTheSameBits) {
  expect_plain_bits();
}

// The first of equal outputs wins, of zeros of both signs too, and what is no number passes relu.
TEST_P(CpuConvReluPoolLoops, TiesAndNanAreDecidedAlike) {
  for (double& value : x) value = std::round(value);
  for (double& value : w) value = std::round(value);
  x[x.size() / 3] = std::numeric_limits<double>::quiet_NaN();
  expect_plain_bits();
}

INSTANTIATE_TEST_SUITE_P(Shapes, CpuConvReluPoolLoops,
                         testing::Values(Shapes{"first_layer", {2, 1, 28, 28}, 32, 3, 0},
                                         Shapes{"inference", {2, 1, 28, 28}, 5, 3, 1, false},
                                         Shapes{"colours", {2, 3, 33, 31}, 7, 3, 1},
                                         Shapes{"kernel_5", {2, 1, 28, 28}, 6, 5, 0},
                                         Shapes{"kernel_5_colours", {2, 3, 21, 37}, 3, 5, 2},
                                         Shapes{"half_a_vector", {1, 1, 10, 6}, 3, 3, 0},
                                         Shapes{"one_window", {1, 1, 4, 4}, 1, 3, 0}),
                         [](const auto& test) { return std::string(test.param.name); });

// Lanes 8 apart are added first, then 4, 2 and 1: in another order 2^26 swallows ones.
TEST(ConvReluPoolSums, LanesAreAddedInATree) {
  Conv2dSpec conv;
  conv.x = {1, 1, 10, 10};
  conv.w = {1, 1, 3, 3};
  conv.bias = true;
  conv.activation = Activation::relu;
  conv.needs_dx = false;
  Pool2dSpec pool;
  pool.x = conv.y();
  const auto fused = make(conv, pool, loops_of<Plain>);
  Stream s;
  constexpr double kLarge = 1 << 26;
  const Owned x = Owned::of(conv.x, Vector(100)), w = Owned::of(conv.w, Vector(9)),
              b = Owned::of({1}, {1}), y(pool.y()), dw(conv.w), db({1}),
              dy = Owned::of(pool.y(), {-4 * kLarge, kLarge, 4 * kLarge, 1, 0, -kLarge, 0, 1,  //
                                        0, 0, 0, 1, 0, 0, 0, 1}),
              saved = Owned::bytes(fused->saved_bytes()),
              scratch = Owned::bytes(fused->scratch_bytes());
  fused->forward(s, x, w, b, y, saved, scratch);
  fused->backward(s, x, w, y, dy, saved, {}, dw, db, scratch);
  EXPECT_EQ(db.values(), (Vector{4}));
}

}  // namespace
}  // namespace peal::cpu::conv_relu_pool
