// `peal bench products`: how ways are compared (by a clock of the test's own, and by the CPU's
// kernels), which products a job has, what becomes of the table; and tables that jobs name.
#include "launcher/tune_products.h"

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
#include "launcher/shared_products.h"
#include "tests/temporary_folder.h"

namespace peal {
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

// Ways that take as long as the test says, by the clock that time_product is given.
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
  ProductTiming timing() {
    return {.turn_seconds = 0, .operand_bytes = 1, .now = [this] { return time; }};
  }
  ProductTimes times() { return time_product({.m = 2, .n = 3, .k = 4}, make(), kCpu, timing()); }

  Seconds seconds;
  int ways;
  double time = 0;
  std::map<const void*, int> operands;  // calls with each
};

TEST(TimeProduct, TheQuickestIsTheBest) {
  const ProductTimes times = Pretended({10, 12, 7, 9}).times();
  EXPECT_EQ(times.best, 2);
  EXPECT_THAT(times.seconds, ElementsAre(10, 12, 7, 9));
}

TEST(TimeProduct, OfEightAtMost) {
  std::vector<double> seconds(12, 10);
  seconds[7] = 5;
  seconds[8] = 1;
  const ProductTimes times = Pretended(seconds).times();
  EXPECT_EQ(times.seconds.size(), 8u);
  EXPECT_EQ(times.best, 7);
}

// Of a product with sums there may be two kinds of ways, of which one has fewer.
TEST(TimeProduct, SomeMayBeMissing) {
  Pretended pretended({10, 0, 9, 0, 8, 0, 9});
  const MakeProduct make = [&](const MatmulSpec& spec) {
    if (spec.algorithm % 2 == 1) fail_input("matmul", "no algorithm ", spec.algorithm);
    return pretended.make()(spec);
  };
  ProductTiming timing = pretended.timing();
  timing.most_ways = 3;
  const MatmulSpec spec{.m = 2, .n = 3, .k = 4, .sums = OperandSums::b};
  const ProductTimes times = time_product(spec, make, kCpu, timing);
  EXPECT_EQ(times.best, 4);
  EXPECT_THAT(times.seconds, ElementsAre(10, 0, 9, 0, 8));
}

TEST(TimeProduct, ALittleIsNoReasonToChange) {
  EXPECT_EQ(Pretended({100, 98.5, 99}).times().best, 0);
  EXPECT_EQ(Pretended({100, 99, 97.5}).times().best, 2);
  EXPECT_EQ(Pretended({10}).times().best, 0);
  EXPECT_EQ(Pretended({10, 10, 10}).times().best, 0);
}

// As if by chance, in the first series alone.
TEST(TimeProduct, TheBestMustBeSoAgain) {
  constexpr int kFirstSeries = 1 + 12;  // calls of a way that is not the first: before, in rounds
  Pretended chance([](int way, int call) { return way == 1 && call < kFirstSeries ? 5.0 : 10.0; },
                   3);
  EXPECT_EQ(chance.times().best, 0);
  Pretended later([](int way, int call) { return way == 1 && call > kFirstSeries ? 5.0 : 10.0; },
                  3);
  EXPECT_EQ(later.times().best, 0);
}

// A clock that slows down or quickens from call to call, and one turn that something else disturbs.
TEST(TimeProduct, WaysTakeTurns) {
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

TEST(TimeProduct, OtherErrorsAndThoseOfTheFirstPass) {
  EXPECT_THAT(message_of([] { Pretended(std::vector<double>{}).times(); }),
              HasSubstr("no algorithm 0"));
  const MakeProduct broken = [](const MatmulSpec& spec) -> std::unique_ptr<Matmul> {
    if (spec.algorithm == 1) fail_internal("matmul", "lost");
    return kernels(kCpu).make_matmul(spec);
  };
  EXPECT_THAT(message_of([&] { time_product({.m = 2, .n = 3, .k = 4}, broken, kCpu); },
                         ErrorKind::internal),
              HasSubstr("lost"));
}

TEST(TimeProduct, SmallOperandsTakeTurns) {
  const MatmulSpec spec{.m = 16, .n = 16, .k = 16};  // 3 KiB
  for (const auto& [bytes, sets] : {std::pair<std::size_t, std::size_t>{3 << 10, 1},
                                    {10 << 10, 4},
                                    {std::size_t{1} << 30, 8}}) {
    Pretended one({1});
    ProductTiming timing = one.timing();
    timing.operand_bytes = bytes;
    timing.turn_seconds = 100;
    time_product(spec, one.make(), kCpu, timing);
    EXPECT_EQ(one.operands.size(), sets) << bytes;
  }
}

// What a product has, and nothing else; its values are random.
TEST(TimeProduct, OperandsAreThoseOfTheSpec) {
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
    ProductTiming timing{.most_ways = 1, .rounds = 1, .turn_seconds = 0, .operand_bytes = 1};
    time_product(spec, make, kCpu, timing);
  }
}

// The CPU's kernels, which have one way.
TEST(TimeProduct, TheCpusKernelsRun) {
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
    const ProductTimes times = time_product(
        spec, make, kCpu, {.most_ways = 1, .rounds = 3, .turn_seconds = 1e-4, .operand_bytes = 1});
    ASSERT_EQ(times.seconds.size(), 1u) << text_of(spec);
    EXPECT_GT(times.seconds[0], 0);
    EXPECT_EQ(times.best, 0);
  }
}

// ---- The products of a job -------------------------------------------------------------------

JobSpec gpt_job(const std::vector<std::string>& overrides = {}) {
  JobSpec job = parse_job(
      "data { train { tokens { path: 'none' } } } optimizer { adam {} } "
      "model { gpt { vocabulary: 50 context: 8 layers: 3 heads: 2 width: 16 dropout: 0 } } "
      "train { global_batch: 24 accumulate_steps: 2 } parallel { virtual_ranks: 4 }",
      "job");
  for (const std::string& override : overrides) set_field(job, override);
  return job;
}

std::vector<std::string> texts(const std::vector<UsedProduct>& products) {
  std::vector<std::string> lines;
  for (const auto& [spec, calls] : products) lines.push_back(cat(calls, " ", text_of(spec)));
  return lines;
}

// 24 records over 4 virtual ranks of 2 parts: 3 records of 8 tokens.
TEST(ProductsOf, AJobAreThoseOfItsPasses) {
  const std::vector<std::string> products = texts(products_of(gpt_job(), kCpu));
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
  EXPECT_EQ(texts(products_of(gpt_job({"train.recompute=BLOCKS"}), kCpu)), products);
  EXPECT_NE(texts(products_of(gpt_job({"train.accumulate_steps=1"}), kCpu)), products);
}

// ---- The table -------------------------------------------------------------------------------

const std::vector<UsedProduct> kThree = {
    {{.m = 1, .n = 1, .k = 1}, 2}, {{.m = 2, .n = 1, .k = 1}, 1}, {{.m = 3, .n = 1, .k = 1}, 5}};

// Of the second product the second way is quicker, of the third the third.
struct Tuned {
  explicit Tuned(ProductChoices before = {}, int measured = 3) : choices(std::move(before)) {
    Pretended pretended({4, 4, 4});
    const MakeProduct make = [&](const MatmulSpec& spec) {
      pretended.seconds = [m = spec.m](int way, int) { return way > 0 && way == m - 1 ? 2 : 4; };
      return pretended.make()(spec);
    };
    all = tune_products(kThree,
                        {.device = kCpu,
                         .make = make,
                         .timing = pretended.timing(),
                         .say = [this](const std::string& line) { lines.push_back(line); },
                         .stopped = [measured]() mutable { return measured-- == 0; }},
                        choices);
  }
  ProductChoices choices;
  bool all = false;
  std::vector<std::string> lines;
};

TEST(TuneProducts, ChoosesWhatIsQuicker) {
  const Tuned tuned;
  EXPECT_TRUE(tuned.all);
  EXPECT_EQ(tuned.choices.size(), 2u);
  EXPECT_EQ(tuned.choices.algorithm(kThree[1].spec), 1);
  EXPECT_EQ(tuned.choices.algorithm(kThree[2].spec), 2);
  EXPECT_THAT(
      tuned.lines,
      ElementsAre("1/3 m=1 n=1 k=1, 2 times: 4.00 s, the first of 3 stays",
                  "2/3 m=2 n=1 k=1, 1 time: 4.00 s; algorithm 1 of 3 2.00 s, 2.00 times as fast",
                  "3/3 m=3 n=1 k=1, 5 times: 4.00 s; algorithm 2 of 3 2.00 s, 2.00 times as fast",
                  "all in a pass: 32.00 s; as chosen 20.00 s, 1.60 times as fast"));
}

TEST(TuneProducts, WhatWasChosenBeforeStaysUntilMeasured) {
  const MatmulSpec other{.m = 9, .n = 9, .k = 9};
  ProductChoices before;
  before.choose(other, 7);
  before.choose(kThree[0].spec, 7);
  before.choose(kThree[2].spec, 7);
  const Tuned stopped(before, 2);
  EXPECT_FALSE(stopped.all);
  EXPECT_EQ(stopped.choices.algorithm(other), 7);
  EXPECT_EQ(stopped.choices.algorithm(kThree[0].spec), 0);
  EXPECT_EQ(stopped.choices.algorithm(kThree[1].spec), 1);
  EXPECT_EQ(stopped.choices.algorithm(kThree[2].spec), 7);
  EXPECT_THAT(stopped.lines.back(), HasSubstr("these in a pass: 12.00 s; as chosen 10.00 s"));
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
  ProductChoices choices;
  choices.made_on = "here";
  choices.choose(kThree[0].spec, 3);
  write_file_atomically(file, print_product_choices(choices));
  EXPECT_EQ(before("here").algorithm(kThree[0].spec), 3);
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

class SharedProducts : public ::testing::Test {
 protected:
  void SetUp() override {
    ProductChoices choices;
    choices.made_on = "here";
    choices.choose(kThree[0].spec, 3);
    write_file_atomically(file_, print_product_choices(choices));
    digest_ = hex(choices.digest());
  }

  const TemporaryFolder folder_;
  const std::string file_ = folder_.path() / "table";
  std::string digest_;
};

TEST_F(SharedProducts, AreTheSameOnEveryRank) {
  run_local_ranks(3, [&](Communicator& comm) {
    JobSpec job = gpt_job({"train.products=" + file_});
    // Only rank 0 reads it.
    if (comm.rank() > 0) job.mutable_train()->set_products("/none");
    const auto table = share_products(job, comm);
    ASSERT_NE(table, nullptr);
    EXPECT_EQ(table->made_on, "here");
    EXPECT_EQ(table->algorithm(kThree[0].spec), 3);
    EXPECT_EQ(job.train().products_digest(), digest_);
    EXPECT_NE(share_products(job, comm), nullptr);  // as written there
    JobSpec without = gpt_job();
    EXPECT_EQ(share_products(without, comm), nullptr);
    EXPECT_FALSE(without.train().has_products_digest());
  });
}

TEST_F(SharedProducts, AreRefusedOnEveryRank) {
  const auto refusals = [&](const std::vector<std::string>& overrides) {
    std::mutex mutex;
    std::vector<std::string> messages;
    run_local_ranks(2, [&](Communicator& comm) {
      JobSpec job = gpt_job(overrides);
      std::string message = message_of([&] { share_products(job, comm); });
      const std::lock_guard lock(mutex);
      messages.push_back(std::move(message));
    });
    return messages;
  };
  using ::testing::Each;
  EXPECT_THAT(refusals({"train.products=/none"}),
              Each(HasSubstr("train.products: /none: is no file")));
  EXPECT_THAT(refusals({"train.products=" + file_, "train.products_digest=0123456789abcdef"}),
              Each(HasSubstr("train.products_digest: 0123456789abcdef is not the digest of " +
                             file_ + ", " + digest_)));
  write_file_atomically(file_, "version: 1\n");
  EXPECT_THAT(refusals({"train.products=" + file_}), Each(HasSubstr(file_ + ": is cut short")));
}

TEST_F(SharedProducts, AreOfThisDevice) {
  const auto table = std::make_shared<const ProductChoices>(read_product_choices(file_));
  const ChooseProduct choose = choose_by(table, file_, "here");
  EXPECT_EQ(choose(kThree[0].spec), 3);
  EXPECT_EQ(choose(kThree[1].spec), 0);
  EXPECT_FALSE(choose_by(nullptr, "", "there"));
  EXPECT_THAT(
      message_of([&] { choose_by(table, file_, "there"); }),
      HasSubstr("train.products: " + file_ + " was made on \"here\" and this is \"there\""));
}

}  // namespace
}  // namespace peal
