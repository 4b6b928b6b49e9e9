// `peal bench algorithms`: how ways are compared (by a clock of the test's own, and by the CPU's
// kernels), which products and convolutions a job has, what becomes of the table; and tables that
// jobs name.
#include "launcher/tune_algorithms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/half_bits.h"
#include "core/config/job.h"
#include "launcher/cli.h"
#include "launcher/shared_algorithms.h"
#include "tests/temporary_folder.h"

namespace peal::tune_algorithms_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Function>
std::string message_of(Function&& function, ErrorKind kind = ErrorKind::input) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "nothing was thrown";
}

// Ways that take as long as the test says, by the clock that time_algorithms is given.
struct Pretended {
  // Seconds of the nth call of a way.
  using Seconds = std::function<double(int way, int call)>;

  explicit Pretended(Seconds of_call, int existing = 8)
      : seconds(std::move(of_call)), ways(existing) {}
  explicit Pretended(std::vector<double> of_ways)
      : Pretended([of_ways](int way, int) { return of_ways[static_cast<std::size_t>(way)]; },
                  static_cast<int>(of_ways.size())) {}

  struct Way final : Matmul {
    Way(Pretended& all, int number) : pretended(all), way(number) {}
    std::size_t scratch_bytes() const override { return static_cast<std::size_t>(100 * way); }
    void run(Stream&, const Operands& of, Tensor scratch) override {
      EXPECT_EQ(scratch.empty() ? 0 : scratch.numel(), 100 * way);
      pretended.time += pretended.seconds(way, calls++);
      ++pretended.operands[of.a.data];
    }
    Pretended& pretended;
    int way, calls = 0;
  };

  MakeProduct make() {
    return [this](const MatmulSpec& spec) -> std::unique_ptr<Matmul> {
      if (spec.algorithm >= ways) fail_input("matmul", "no algorithm ", spec.algorithm);
      return std::make_unique<Way>(*this, spec.algorithm);
    };
  }
  AlgorithmTiming timing() {
    return {.turn_seconds = 0, .operand_bytes = 1, .now = [this] { return time; }};
  }
  AlgorithmTimes times() {
    return time_algorithms({.m = 2, .n = 3, .k = 4}, make(), kCpu, timing());
  }

  Seconds seconds;
  int ways;
  double time = 0;
  std::map<const void*, int> operands;  // calls with each
};

// Convolutions whose passes take as long as the test says.
struct PretendedConvolution final : Conv2d {
  using Seconds = std::function<double(ConvPass pass, int way)>;

  PretendedConvolution(Conv2dSpec of, Seconds of_call, double& clock)
      : spec(std::move(of)), seconds(std::move(of_call)), time(clock) {}

  static MakeConvolution make(Seconds of_call, int existing, double& clock) {
    return [=, &clock](const Conv2dSpec& spec) -> std::unique_ptr<Conv2d> {
      for (const int algorithm : spec.algorithms)
        if (algorithm >= existing) fail_input("conv2d", "no engine ", algorithm);
      return std::make_unique<PretendedConvolution>(spec, of_call, clock);
    };
  }

  const Layout* y_layout() const override { return layout_of(spec.y()); }
  const Layout* w_layout() const override { return layout_of(spec.w); }
  const Layout* layout_of(const Shape& shape) const {
    return padded_rows(shape, spec.stored, shape[3] + 3);
  }
  std::size_t scratch_bytes() const override { return 0; }
  void take(ConvPass pass) { time += seconds(pass, spec.algorithm(pass)); }
  static void check(const Tensor& x, const Shape& shape, DType dtype,
                    const Layout* layout = nullptr) {
    EXPECT_FALSE(x.empty());
    EXPECT_EQ(x.shape, shape);
    EXPECT_EQ(x.dtype, dtype);
    EXPECT_EQ(x.layout, layout);
  }
  void check_x(const Tensor& x) const { check(x, spec.x, spec.stored, spec.x_layout); }
  void check_w(const Tensor& w) const { check(w, spec.w, spec.stored, w_layout()); }
  void check_y(const Tensor& y) const { check(y, spec.y(), spec.stored, y_layout()); }
  void check_bias(const Tensor& b) const {
    EXPECT_EQ(b.empty(), !spec.bias);
    if (spec.bias) check(b, {spec.w[0]}, DType::f32);
  }

  void forward(Stream&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor) override {
    check_x(x);
    check_w(w);
    check_y(y);
    check_bias(b);
    take(ConvPass::forward);
  }
  void backward_data(Stream&, const Tensor& dy, const Tensor& w, Tensor dx, Tensor) override {
    check_y(dy);
    check_w(w);
    check_x(dx);
    take(ConvPass::backward_data);
  }
  void backward_weights(Stream&, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor) override {
    check_x(x);
    check_y(dy);
    check(dw, spec.w, DType::f32);
    check_bias(db);
    take(ConvPass::backward_weights);
  }

  Conv2dSpec spec;
  Seconds seconds;
  double& time;
};

TEST(TimeAlgorithms, TheQuickestIsTheBest) {
  const AlgorithmTimes times = Pretended({10, 12, 7, 9}).times();
  EXPECT_EQ(times.best, 2);
  EXPECT_THAT(times.seconds, ElementsAre(10, 12, 7, 9));
}

TEST(TimeAlgorithms, OfEightAtMost) {
  std::vector<double> seconds(12, 10);
  seconds[7] = 5;
  seconds[8] = 1;
  const AlgorithmTimes times = Pretended(seconds).times();
  EXPECT_EQ(times.seconds.size(), 8u);
  EXPECT_EQ(times.best, 7);
}

// Of a product with sums there may be two kinds of ways, of which one has fewer.
TEST(TimeAlgorithms, SomeMayBeMissing) {
  Pretended pretended({10, 0, 9, 0, 8, 0, 9});
  const MakeProduct make = [&](const MatmulSpec& spec) {
    if (spec.algorithm % 2 == 1) fail_input("matmul", "no algorithm ", spec.algorithm);
    return pretended.make()(spec);
  };
  AlgorithmTiming timing = pretended.timing();
  timing.most_ways = 3;
  const MatmulSpec spec{.m = 2, .n = 3, .k = 4, .sums = OperandSums::b};
  const AlgorithmTimes times = time_algorithms(spec, make, kCpu, timing);
  EXPECT_EQ(times.best, 4);
  EXPECT_THAT(times.seconds, ElementsAre(10, 0, 9, 0, 8));
}

TEST(TimeAlgorithms, ALittleIsNoReasonToChange) {
  EXPECT_EQ(Pretended({100, 98.5, 99}).times().best, 0);
  EXPECT_EQ(Pretended({100, 99, 97.5}).times().best, 2);
  EXPECT_EQ(Pretended({10}).times().best, 0);
  EXPECT_EQ(Pretended({10, 10, 10}).times().best, 0);
}

// As if by chance, in the first series alone.
TEST(TimeAlgorithms, TheBestMustBeSoAgain) {
  constexpr int kFirstSeries = 1 + 12;  // calls of a way that is not the first: before, in rounds
  Pretended chance([](int way, int call) { return way == 1 && call < kFirstSeries ? 5.0 : 10.0; },
                   3);
  EXPECT_EQ(chance.times().best, 0);
  Pretended later([](int way, int call) { return way == 1 && call > kFirstSeries ? 5.0 : 10.0; },
                  3);
  EXPECT_EQ(later.times().best, 0);
}

// A clock that slows down or quickens from call to call, and one turn that something else disturbs.
TEST(TimeAlgorithms, WaysTakeTurns) {
  for (const double change : {1.01, 0.99}) {
    const auto changing = [change](double of_second) {
      return [=, n = 0](int way, int) mutable {
        return (way == 1 ? of_second : 10) * std::pow(change, n++);
      };
    };
    EXPECT_EQ(Pretended(changing(10), 2).times().best, 0);
    EXPECT_EQ(Pretended(changing(9), 2).times().best, 1);
  }
  Pretended disturbed([](int way, int call) { return call == 5  ? 1000
                                                     : way == 2 ? 9.0
                                                                : 10.0; },
                      3);
  EXPECT_EQ(disturbed.times().best, 2);
}

TEST(TimeAlgorithms, OtherErrorsAndThoseOfTheFirstPass) {
  EXPECT_THAT(message_of([] { Pretended(std::vector<double>{}).times(); }),
              HasSubstr("no algorithm 0"));
  const MakeProduct broken = [](const MatmulSpec& spec) -> std::unique_ptr<Matmul> {
    if (spec.algorithm == 1) fail_internal("matmul", "lost");
    return kernels(kCpu).make_matmul(spec);
  };
  EXPECT_THAT(message_of([&] { time_algorithms({.m = 2, .n = 3, .k = 4}, broken, kCpu); },
                         ErrorKind::internal),
              HasSubstr("lost"));
}

TEST(TimeAlgorithms, SmallOperandsTakeTurns) {
  const MatmulSpec spec{.m = 16, .n = 16, .k = 16};  // 3 KiB
  for (const auto& [bytes, sets] : {std::pair<std::size_t, std::size_t>{3 << 10, 1},
                                    {10 << 10, 4},
                                    {std::size_t{1} << 30, 8}}) {
    Pretended one({1});
    AlgorithmTiming timing = one.timing();
    timing.operand_bytes = bytes;
    timing.turn_seconds = 100;
    time_algorithms(spec, one.make(), kCpu, timing);
    EXPECT_EQ(one.operands.size(), sets) << bytes;
  }
}

// What a product has, and nothing else; its values are random.
TEST(TimeAlgorithms, OperandsAreThoseOfTheSpec) {
  struct Look final : Matmul {
    explicit Look(const MatmulSpec& of) : spec(of) {}
    std::size_t scratch_bytes() const override { return 0; }
    void run(Stream&, const Operands& of, Tensor) override {
      const auto check = [](const Tensor& x, bool there, const Shape& shape, DType dtype) {
        ASSERT_EQ(!x.empty(), there);
        if (!there) return;
        EXPECT_EQ(x.shape, shape);
        EXPECT_EQ(x.dtype, dtype);
        double sum = 0, most = 0;
        for (std::int64_t i = 0; i < x.numel(); ++i) {
          const float value = dtype == DType::f32    ? x.as<float>()[i]
                              : dtype == DType::bf16 ? widen_bf16_bits(x.as<std::uint16_t>()[i])
                                                     : widen_f16_bits(x.as<std::uint16_t>()[i]);
          sum += std::abs(value);
          most = std::max(most, std::abs(double{value}));
        }
        EXPECT_LE(most, 1);
        EXPECT_NEAR(sum / static_cast<double>(x.numel()), 0.5, 0.2);
      };
      const Shape c{2, 30, 40};
      check(of.a, true, spec.transpose_a ? Shape{2, 50, 30} : Shape{2, 30, 50}, spec.operands);
      const std::int64_t of_b = spec.broadcast_b ? 1 : 2;
      check(of.b, true, spec.transpose_b ? Shape{of_b, 40, 50} : Shape{of_b, 50, 40},
            spec.operands);
      check(of.c, true, c, spec.result);
      check(of.bias, spec.bias, {40}, DType::f32);
      check(of.addend, spec.addend, c, spec.result);
      check(of.before, spec.slope || spec.keeps_before, c, spec.result);
      check(of.sums, spec.sums != OperandSums::none, {spec.sums == OperandSums::a ? 30 : 40},
            DType::f32);
    }
    MatmulSpec spec;
  };
  const MatmulSpec plain{.batch = 2, .m = 30, .n = 40, .k = 50};
  std::vector<MatmulSpec> specs(8, plain);
  specs[1].transpose_a = specs[1].bias = true;
  specs[1].operands = DType::bf16;
  specs[2].transpose_b = specs[2].addend = true;
  specs[2].operands = specs[2].result = DType::f16;
  specs[3].broadcast_b = specs[3].keeps_before = true;
  specs[3].activation = Activation::gelu_tanh;
  specs[4] = specs[3];
  specs[4].keeps_before = false;
  specs[4].slope = specs[4].transpose_b = true;
  specs[5].operands = specs[5].result = DType::bf16;
  specs[6].sums = OperandSums::a;
  specs[7].sums = OperandSums::b;
  for (const MatmulSpec& spec : specs) {
    const auto make = [](const MatmulSpec& s) { return std::make_unique<Look>(s); };
    AlgorithmTiming timing{.most_ways = 1, .rounds = 1, .turn_seconds = 0, .operand_bytes = 1};
    time_algorithms(spec, make, kCpu, timing);
  }
}

// Of the pass alone that is asked for: the others stay the spec's.
TEST(TimeAlgorithms, APassOfAConvolution) {
  double time = 0;
  Conv2dSpec spec{.x = {2, 3, 6, 5}, .w = {4, 3, 3, 3}, .padding = {1, 0}, .stored = DType::bf16};
  spec.x_layout = padded_rows(spec.x, spec.stored, 8);
  spec.algorithms[static_cast<int>(ConvPass::backward_data)] = 3;
  for (const bool bias : {false, true}) {
    spec.bias = bias;
    for (int best = 0; best < kConvPasses; ++best) {
      const auto pass = static_cast<ConvPass>(best);
      const auto seconds = [=](ConvPass called, int way) {
        EXPECT_EQ(called, pass);
        return way == best + 1 ? 3.0 : 6.0 + way;
      };
      const AlgorithmTimes times =
          time_algorithms(spec, pass, PretendedConvolution::make(seconds, 5, time), kCpu,
                          {.turn_seconds = 0, .operand_bytes = 1, .now = [&] { return time; }});
      EXPECT_EQ(times.best, best + 1);
      ASSERT_EQ(times.seconds.size(), 5u);
      EXPECT_EQ(times.seconds[4], 10);
    }
  }
}

// The CPU's kernels, which have one way.
TEST(TimeAlgorithms, TheCpusKernelsRun) {
  const auto make = [](const MatmulSpec& spec) { return kernels(kCpu).make_matmul(spec); };
  for (const MatmulSpec& spec :
       {MatmulSpec{.m = 30, .n = 40, .k = 50, .bias = true, .addend = true},
        MatmulSpec{.batch = 3, .m = 30, .n = 40, .k = 50, .transpose_b = true, .broadcast_b = true},
        MatmulSpec{.m = 30, .n = 40, .k = 50, .activation = Activation::gelu_tanh, .slope = true},
        MatmulSpec{.m = 30,
        .n = 40,
        .k = 50,
        .bias = true,
        .activation = Activation::gelu_tanh,
        .keeps_before = true}}) {
    const AlgorithmTimes times = time_algorithms(
        spec, make, kCpu, {.most_ways = 1, .rounds = 3, .turn_seconds = 1e-4, .operand_bytes = 1});
    ASSERT_EQ(times.seconds.size(), 1u) << text_of(spec);
    EXPECT_GT(times.seconds[0], 0);
    EXPECT_EQ(times.best, 0);
  }
}

// In the layouts that they ask for.
TEST(TimeAlgorithms, TheCpusConvolutionsRun) {
  const auto make = [](const Conv2dSpec& spec) { return kernels(kCpu).make_conv2d(spec); };
  Conv2dSpec spec{.x = {2, 16, 9, 9}, .w = {24, 16, 3, 3}, .padding = {1, 1}, .bias = true};
  spec.x_layout = make({.x = {2, 3, 9, 9}, .w = {16, 3, 1, 1}})->y_layout();
  for (int pass = 0; pass < kConvPasses; ++pass) {
    const AlgorithmTimes times =
        time_algorithms(spec, static_cast<ConvPass>(pass), make, kCpu,
                        {.most_ways = 1, .rounds = 3, .turn_seconds = 1e-4, .operand_bytes = 1});
    ASSERT_EQ(times.seconds.size(), 1u);
    EXPECT_GT(times.seconds[0], 0);
  }
}

// ---- The products and convolutions of a job
// -------------------------------------------------------------------

JobSpec gpt_job(const std::vector<std::string>& overrides = {}) {
  JobSpec job = parse_job(
      "data { train { tokens { path: 'none' } } } optimizer { adam {} } "
      "model { gpt { vocabulary: 50 context: 8 layers: 3 heads: 2 width: 16 dropout: 0 } } "
      "train { global_batch: 24 accumulate_steps: 2 } parallel { virtual_ranks: 4 }",
      "job");
  for (const std::string& override : overrides) set_field(job, override);
  return job;
}

std::vector<std::string> texts(const UsedAlgorithms& used) {
  std::vector<std::string> lines;
  for (const auto& [spec, calls] : used.products) lines.push_back(cat(calls, " ", text_of(spec)));
  for (const auto& [spec, pass, calls] : used.convolutions)
    lines.push_back(cat(calls, " ", text_of(ConvCall(spec, pass))));
  return lines;
}

// 24 records over 4 virtual ranks of 2 parts: 3 records of 8 tokens.
TEST(AlgorithmsOf, AJobAreThoseOfItsPasses) {
  const std::vector<std::string> products = texts(algorithms_of(gpt_job(), kCpu));
  EXPECT_THAT(products,
              ElementsAre("3 m=24 n=48 k=16 bias", "3 m=16 n=48 k=24 transpose_a sums=b",
                          "3 m=24 n=16 k=48 transpose_b", "3 m=24 n=16 k=16 bias addend",
                          "3 m=16 n=16 k=24 transpose_a sums=b", "3 m=24 n=16 k=16 transpose_b",
                          "3 m=24 n=64 k=16 bias activation=gelu_tanh keeps_before",
                          "3 m=24 n=16 k=64 bias addend", "3 m=64 n=16 k=24 transpose_a sums=b",
                          "3 m=24 n=64 k=16 transpose_b activation=gelu_tanh slope",
                          "3 m=16 n=64 k=24 transpose_a sums=b", "3 m=24 n=16 k=64 transpose_b",
                          "1 m=24 n=50 k=16 transpose_b", "1 m=50 n=16 k=24 transpose_a",
                          "1 m=24 n=16 k=50"));
  EXPECT_EQ(texts(algorithms_of(gpt_job({"train.recompute=BLOCKS"}), kCpu)), products);
  EXPECT_NE(texts(algorithms_of(gpt_job({"train.accumulate_steps=1"}), kCpu)), products);
}

// Of a ResNet's first stage, whose blocks are alike; the first convolution has no gradient of x.
TEST(AlgorithmsOf, AJobOfConvolutionsHasEachPassOfThem) {
  JobSpec job = parse_job(
      "data { train { tar { path: 'none' } } } optimizer { sgd {} } "
      "model { resnet { blocks: 2 filters: 4 stem: CIFAR classes: 10 width: 6 height: 8 } } "
      "train { global_batch: 6 } parallel { virtual_ranks: 2 }",
      "job");
  EXPECT_THAT(texts(algorithms_of(job, kCpu)),
              ElementsAre("1 m=3 n=10 k=4 transpose_b bias", "1 m=10 n=4 k=3 transpose_a sums=a",
                          "1 m=3 n=4 k=10", "1 pass=forward x=3x3x8x6 w=4x3x3x3 padding=1x1",
                          "1 pass=backward_weights x=3x3x8x6 w=4x3x3x3 padding=1x1",
                          "4 pass=forward x=3x4x8x6 w=4x4x3x3 padding=1x1",
                          "4 pass=backward_weights x=3x4x8x6 w=4x4x3x3 padding=1x1",
                          "4 pass=backward_data x=3x4x8x6 w=4x4x3x3 padding=1x1"));
}

// ---- The table -------------------------------------------------------------------------------

const Conv2dSpec kConvolution{.x = {1, 2, 4, 4}, .w = {3, 2, 3, 3}, .bias = true};
const UsedAlgorithms kUsed{
    {{{.m = 1, .n = 1, .k = 1}, 2}, {{.m = 2, .n = 1, .k = 1}, 1}, {{.m = 3, .n = 1, .k = 1}, 5}},
    {{kConvolution, ConvPass::backward_data, 3}, {kConvolution, ConvPass::forward, 1}}};
const ConvCall kBackwardData(kConvolution, ConvPass::backward_data),
    kForward(kConvolution, ConvPass::forward);
const MatmulSpec &kFirst = kUsed.products[0].spec, &kSecond = kUsed.products[1].spec,
                 &kThird = kUsed.products[2].spec;

// Of the second product the second way is quicker, of the third the third; of the convolution's
// backward pass the last.
struct Tuned {
  explicit Tuned(AlgorithmChoices before = {}, int measured = 5) : choices(std::move(before)) {
    Pretended pretended({4, 4, 4});
    const MakeProduct make = [&](const MatmulSpec& spec) {
      pretended.seconds = [m = spec.m](int way, int) { return way > 0 && way == m - 1 ? 2 : 4; };
      return pretended.make()(spec);
    };
    PretendedConvolution::Seconds seconds = [](ConvPass pass, int way) {
      return pass == ConvPass::backward_data && way == 2 ? 1 : 4;
    };
    all =
        tune_algorithms(kUsed,
                        {.device = kCpu,
                         .make_product = make,
                         .make_convolution = PretendedConvolution::make(seconds, 3, pretended.time),
                         .timing = pretended.timing(),
                         .say = [this](const std::string& line) { lines.push_back(line); },
                         .stopped = [measured]() mutable { return measured-- == 0; }},
                        choices);
  }
  AlgorithmChoices choices;
  bool all = false;
  std::vector<std::string> lines;
};

TEST(TuneAlgorithms, ChoosesWhatIsQuicker) {
  const Tuned tuned;
  EXPECT_TRUE(tuned.all);
  EXPECT_EQ(tuned.choices.size(), 3u);
  EXPECT_EQ(tuned.choices.algorithm(kSecond), 1);
  EXPECT_EQ(tuned.choices.algorithm(kThird), 2);
  EXPECT_EQ(tuned.choices.algorithm(kBackwardData), 2);
  EXPECT_THAT(
      tuned.lines,
      ElementsAre("1/5 m=1 n=1 k=1, 2 times: 4.00 s, the first of 3 stays",
                  "2/5 m=2 n=1 k=1, 1 time: 4.00 s; algorithm 1 of 3 2.00 s, 2.00 times as fast",
                  "3/5 m=3 n=1 k=1, 5 times: 4.00 s; algorithm 2 of 3 2.00 s, 2.00 times as fast",
                  "4/5 pass=backward_data x=1x2x4x4 w=3x2x3x3, 3 times: 4.00 s; algorithm 2 of 3 "
                  "1.00 s, 4.00 times as fast",
                  "5/5 pass=forward x=1x2x4x4 w=3x2x3x3 bias, 1 time: 4.00 s, the first of 3 stays",
                  "all in a pass: 48.00 s; as chosen 27.00 s, 1.78 times as fast"));
}

TEST(TuneAlgorithms, WhatWasChosenBeforeStaysUntilMeasured) {
  const MatmulSpec other{.m = 9, .n = 9, .k = 9};
  Conv2dSpec elsewhere = kConvolution;
  elsewhere.x[0] = 7;
  AlgorithmChoices before;
  before.choose(other, 7);
  before.choose({elsewhere, ConvPass::forward}, 7);
  before.choose(kFirst, 7);
  before.choose(kThird, 7);
  before.choose(kBackwardData, 7);
  const Tuned stopped(before, 2);
  EXPECT_FALSE(stopped.all);
  EXPECT_EQ(stopped.choices.algorithm(other), 7);
  EXPECT_EQ(stopped.choices.algorithm({elsewhere, ConvPass::forward}), 7);
  EXPECT_EQ(stopped.choices.algorithm(kFirst), 0);
  EXPECT_EQ(stopped.choices.algorithm(kSecond), 1);
  EXPECT_EQ(stopped.choices.algorithm(kThird), 7);
  EXPECT_EQ(stopped.choices.algorithm(kBackwardData), 7);
  EXPECT_THAT(stopped.lines.back(), HasSubstr("these in a pass: 12.00 s; as chosen 10.00 s"));
  const Tuned between(before, 4);  // a product's convolutions come behind it
  EXPECT_FALSE(between.all);
  EXPECT_EQ(between.choices.algorithm(kBackwardData), 2);
  EXPECT_TRUE(Tuned({}, 0).lines.empty());
}

TEST(ChoicesBefore, AreThoseOfTheSameLibrary) {
  const TemporaryFolder folder;
  const std::string file = folder.path() / "table";
  std::vector<std::string> lines;
  const auto before = [&](const std::string& library) {
    return choices_before(file, library, [&](const std::string& line) { lines.push_back(line); });
  };
  EXPECT_EQ(before("here").size(), 0u);
  EXPECT_TRUE(lines.empty());
  AlgorithmChoices choices;
  choices.made_on = "here";
  choices.choose(kFirst, 3);
  write_file_atomically(file, print_algorithm_choices(choices));
  EXPECT_EQ(before("here").algorithm(kFirst), 3);
  EXPECT_TRUE(lines.empty());
  EXPECT_EQ(before("there").size(), 0u);
  EXPECT_EQ(before("there").made_on, "there");
  ASSERT_FALSE(lines.empty());
  EXPECT_THAT(lines.back(), HasSubstr("replacing " + file + ", which was made on \"here\""));
  write_file_atomically(file, "version: 7\n");
  EXPECT_EQ(before("here").size(), 0u);
  EXPECT_THAT(lines.back(), HasSubstr("replacing " + file + ": version 7"));
}

// ---- Jobs that name one ----------------------------------------------------------------------

class SharedAlgorithms : public ::testing::Test {
 protected:
  void SetUp() override {
    AlgorithmChoices choices;
    choices.made_on = "here";
    choices.choose(kFirst, 3);
    choices.choose(kBackwardData, 4);
    write_file_atomically(file_, print_algorithm_choices(choices));
    digest_ = hex(choices.digest());
  }

  const TemporaryFolder folder_;
  const std::string file_ = folder_.path() / "table";
  std::string digest_;
};

TEST_F(SharedAlgorithms, AreTheSameOnEveryRank) {
  run_local_ranks(3, [&](Communicator& comm) {
    JobSpec job = gpt_job({"train.algorithms=" + file_});
    // Only rank 0 reads it.
    if (comm.rank() > 0) job.mutable_train()->set_algorithms("/none");
    const auto table = share_algorithms(job, comm);
    ASSERT_NE(table, nullptr);
    EXPECT_EQ(table->made_on, "here");
    EXPECT_EQ(table->algorithm(kFirst), 3);
    EXPECT_EQ(table->algorithm(kBackwardData), 4);
    EXPECT_EQ(job.train().algorithms_digest(), digest_);
    EXPECT_NE(share_algorithms(job, comm), nullptr);  // as written there
    JobSpec without = gpt_job();
    EXPECT_EQ(share_algorithms(without, comm), nullptr);
    EXPECT_FALSE(without.train().has_algorithms_digest());
  });
}

TEST_F(SharedAlgorithms, AreRefusedOnEveryRank) {
  const auto refusals = [&](const std::vector<std::string>& overrides) {
    std::mutex mutex;
    std::vector<std::string> messages;
    run_local_ranks(2, [&](Communicator& comm) {
      JobSpec job = gpt_job(overrides);
      std::string message = message_of([&] { share_algorithms(job, comm); });
      const std::lock_guard lock(mutex);
      messages.push_back(std::move(message));
    });
    return messages;
  };
  using ::testing::Each;
  EXPECT_THAT(refusals({"train.algorithms=/none"}),
              Each(HasSubstr("train.algorithms: /none: is no file")));
  EXPECT_THAT(refusals({"train.algorithms=" + file_, "train.algorithms_digest=0123456789abcdef"}),
              Each(HasSubstr("train.algorithms_digest: 0123456789abcdef is not the digest of " +
                             file_ + ", " + digest_)));
  write_file_atomically(file_, "version: 1\n");
  EXPECT_THAT(refusals({"train.algorithms=" + file_}), Each(HasSubstr(file_ + ": is cut short")));
}

TEST_F(SharedAlgorithms, AreOfThisDevice) {
  const auto table = std::make_shared<const AlgorithmChoices>(read_algorithm_choices(file_));
  const ChooseAlgorithm choose = choose_by(table, file_, "here");
  EXPECT_EQ(choose.product(kFirst), 3);
  EXPECT_EQ(choose.product(kSecond), 0);
  EXPECT_EQ(choose.convolution(kConvolution, ConvPass::backward_data), 4);
  EXPECT_EQ(choose.convolution(kConvolution, ConvPass::forward), 0);
  const ChooseAlgorithm nothing = choose_by(nullptr, "", "there");
  EXPECT_FALSE(nothing.product);
  EXPECT_FALSE(nothing.convolution);
  EXPECT_THAT(
      message_of([&] { choose_by(table, file_, "there"); }),
      HasSubstr("train.algorithms: " + file_ + " was made on \"here\" and this is \"there\""));
}

}  // namespace
}  // namespace peal::tune_algorithms_test
