#include "core/data/preprocess.h"

#include <cmath>
#include <limits>
#include <set>

#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using testing::counting_dataset;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using testing::float_dataset;
using ::testing::HasSubstr;
using testing::input_error;
using Kind = PreprocessStep::Kind;

std::vector<float> run(const Dataset& data, const std::vector<PreprocessStep>& steps,
                       std::int64_t record, bool augment = false, std::int64_t epoch = 0,
                       std::uint64_t seed = 1) {
  const Preprocess preprocess(steps, data);
  std::vector<float> out(static_cast<std::size_t>(preprocess.output_shape().numel()));
  preprocess.apply(data, record, seed, epoch, augment, out.data());
  return out;
}

TEST(Preprocess, NothingWidensBytes) {
  EXPECT_THAT(run(*counting_dataset(9), {}, 4), ElementsAre(4, 5, 6, 7, 8, 9));
}

TEST(Preprocess, Scale) {
  const std::vector<PreprocessStep> steps = {{.kind = Kind::scale, .factor = 2, .offset = 0.5f}};
  EXPECT_THAT(run(*counting_dataset(9), steps, 0),
              ElementsAre(0.5f, 2.5f, 4.5f, 6.5f, 8.5f, 10.5f));
  EXPECT_THAT(run(*float_dataset({2}, {1, -3}, {0}), steps, 0), ElementsAre(2.5f, -5.5f));
}

// Bytes take a folded path, floats the steps one by one.
TEST(Preprocess, BytesAndFloatsAgree) {
  std::vector<std::byte> bytes;
  std::vector<float> floats;
  for (int i = 0; i < 3 * 4 * 5; ++i) {
    bytes.push_back(static_cast<std::byte>(i * 37 % 256));
    floats.push_back(static_cast<float>(i * 37 % 256));
  }
  const Shape shape{3, 4, 5};
  const auto b = memory_dataset("bytes", shape, DType::u8, bytes, {0});
  const auto f = float_dataset(shape, floats, {0});
  const std::vector<PreprocessStep> steps = {
      {.kind = Kind::scale, .factor = 1 / 255.0f, .offset = 0.25f},
      {.kind = Kind::standardize_given, .mean = {0.1f, 0.2f, 0.3f}, .std = {0.5f}},
      {.kind = Kind::standardize_given, .mean = {0.5f}, .std = {2, 3, 4}},
      {.kind = Kind::scale, .factor = 3}};
  const auto x = run(*b, steps, 0), y = run(*f, steps, 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i / 20;
    const double a = floats[i] * double(1 / 255.0f) + 0.25;
    const double expected =
        3 * ((a - steps[1].mean[c]) / 0.5 - 0.5) / static_cast<double>(steps[2].std[c]);
    EXPECT_NEAR(x[i], expected, 4e-6) << i;
    EXPECT_NEAR(y[i], expected, 4e-6) << i;
  }
}

TEST(Preprocess, StandardizePerRecordUsesThePopulationDeviation) {
  const auto data =
      float_dataset({4}, {1, 2, 3, 4, 7, 7, 7, 7, 1e6f, 1e6f + 1, 1e6f, 1e6f + 1}, {0, 0, 0});
  const std::vector<PreprocessStep> steps = {{.kind = Kind::standardize_per_record}};
  const float a = static_cast<float>(1.5 / std::sqrt(1.25)),
              b = static_cast<float>(0.5 / std::sqrt(1.25));
  EXPECT_THAT(run(*data, steps, 0), ElementsAre(-a, -b, b, a));
  EXPECT_THAT(run(*data, steps, 1), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(run(*data, steps, 2), ElementsAre(-1, 1, -1, 1));
}

TEST(Preprocess, StandardizePerFeature) {
  const auto train = float_dataset({3}, {1, 5, 1e7f, 3, 5, 1e7f + 2, 5, 5, 1e7f + 4}, {0, 0, 0});
  const Preprocess preprocess({{.kind = Kind::standardize_per_feature}}, *train);
  const auto test = float_dataset({3}, {3, 9, 1e7f + 4}, {0});
  float out[3];
  preprocess.apply(*test, 0, 1, 0, false, out);
  const float deviation = static_cast<float>(std::sqrt(8.0 / 3));
  EXPECT_FLOAT_EQ(out[0], 0);
  EXPECT_FLOAT_EQ(out[1], 0);  // constant in training: no deviation to divide by
  EXPECT_FLOAT_EQ(out[2], 2 / deviation);
  // Steps before it count; bytes fold into the same numbers.
  const auto bytes = counting_dataset(3);
  const float one = static_cast<float>(1 / std::sqrt(2.0 / 3));
  for (const float x :
       run(*bytes, {{.kind = Kind::scale, .factor = 0.5f}, {.kind = Kind::standardize_per_feature}},
           2)) {
    EXPECT_NEAR(x, one, 1e-5);
  }
}

TEST(Preprocess, OneHot) {
  const auto data = float_dataset({1}, {2, 0, 3, 0.5f, -1}, {0, 0, 0, 0, 0});
  const std::vector<PreprocessStep> steps = {{.kind = Kind::one_hot, .classes = 3}};
  EXPECT_EQ(Preprocess(steps, *data).output_shape(), Shape{3});
  EXPECT_THAT(run(*data, steps, 0), ElementsAre(0, 0, 1));
  EXPECT_THAT(run(*data, steps, 1), ElementsAre(1, 0, 0));
  for (const int bad : {2, 3, 4}) {
    EXPECT_THAT(input_error([&] { run(*data, steps, bad); }),
                AllOf(HasSubstr(cat("record ", bad, " is class")), HasSubstr("0 to 2")));
  }
}

// Every crop is the padded picture's window at some offset, and all offsets come up.
TEST(Preprocess, RandomCropIsAWindow) {
  constexpr int kH = 3, kW = 4, kPad = 2;
  std::vector<float> picture;
  for (int i = 0; i < 2 * kH * kW; ++i) picture.push_back(static_cast<float>(i + 1));
  const auto data = float_dataset({2, kH, kW}, picture, {0});
  const auto window = [&](int dy, int dx) {
    std::vector<float> out;
    for (int c = 0; c < 2; ++c) {
      for (int y = dy; y < dy + kH; ++y) {
        for (int x = dx; x < dx + kW; ++x) {
          const bool in = y >= 0 && y < kH && x >= 0 && x < kW;
          out.push_back(in ? picture[static_cast<std::size_t>((c * kH + y) * kW + x)] : 0);
        }
      }
    }
    return out;
  };
  std::set<std::vector<float>> windows, seen;
  for (int dy = -kPad; dy <= kPad; ++dy) {
    for (int dx = -kPad; dx <= kPad; ++dx) windows.insert(window(dy, dx));
  }
  const std::vector<PreprocessStep> steps = {{.kind = Kind::random_crop, .padding = kPad}};
  for (int epoch = 0; epoch < 400; ++epoch) {
    const auto x = run(*data, steps, 0, true, epoch);
    ASSERT_TRUE(windows.contains(x));
    seen.insert(x);
  }
  EXPECT_EQ(seen.size(), windows.size());
  EXPECT_EQ(run(*data, steps, 0, /*augment=*/false), picture);
}

TEST(Preprocess, CropMayLeaveThePictureWholly) {
  const auto data = float_dataset({2, 2}, {1, 2, 3, 4}, {0});
  for (int epoch = 0; epoch < 200; ++epoch) {
    const auto x = run(*data, {{.kind = Kind::random_crop, .padding = 5}}, 0, true, epoch);
    for (const float v : x) ASSERT_TRUE(v >= 0 && v <= 4);
  }
}

TEST(Preprocess, RandomFlipIsKeyedBySeedEpochAndRecord) {
  const auto data = counting_dataset(200);
  const std::vector<PreprocessStep> steps = {{.kind = Kind::random_flip, .probability = 0.5f}};
  int flipped = 0;
  for (int r = 0; r < 200; ++r) {
    const auto plain = run(*data, {}, r);
    const auto x = run(*data, steps, r, true, 3);
    if (x != plain) {
      ++flipped;
      EXPECT_THAT(x, ElementsAre(plain[2], plain[1], plain[0], plain[5], plain[4], plain[3]));
    }
    EXPECT_EQ(x, run(*data, steps, r, true, 3));
  }
  EXPECT_NEAR(flipped, 100, 30);
  const auto flips = [&](std::int64_t epoch, std::uint64_t seed) {
    std::vector<bool> list;
    for (int r = 0; r < 50; ++r)
      list.push_back(run(*data, steps, r, true, epoch, seed)[0] != float(r));
    return list;
  };
  EXPECT_NE(flips(0, 1), flips(1, 1));
  EXPECT_NE(flips(0, 1), flips(0, 2));
  EXPECT_EQ(run(*data, {{.kind = Kind::random_flip, .probability = 0}}, 1, true)[0], 1);
  EXPECT_EQ(run(*data, {{.kind = Kind::random_flip, .probability = 1}}, 1, true)[0], 3);
}

TEST(Preprocess, ErrorsNameTheStep) {
  const auto data = counting_dataset(3);
  const PreprocessStep good{.kind = Kind::scale};
  const auto error = [&](const PreprocessStep& step) {
    return input_error([&] { Preprocess({good, step}, *data); });
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto names_step = HasSubstr("data.preprocess[1]: ");
  EXPECT_THAT(error({.kind = Kind::scale, .factor = nan}), AllOf(names_step, HasSubstr("factor")));
  EXPECT_THAT(error({.kind = Kind::standardize_given, .mean = {1, 2, 3}, .std = {1}}),
              AllOf(names_step, HasSubstr("mean has 3 numbers"), HasSubstr("or 2")));
  EXPECT_THAT(error({.kind = Kind::standardize_given, .mean = {1}}), HasSubstr("std has 0"));
  EXPECT_THAT(error({.kind = Kind::standardize_given, .mean = {1}, .std = {0}}),
              AllOf(names_step, HasSubstr("std is 0"), HasSubstr("above 0")));
  EXPECT_THAT(error({.kind = Kind::one_hot, .classes = 3}), AllOf(names_step, HasSubstr("(2, 3)")));
  EXPECT_THAT(error({.kind = Kind::one_hot}), AllOf(names_step, HasSubstr("classes is 0")));
  EXPECT_THAT(error({.kind = Kind::random_crop, .padding = -1}), HasSubstr("padding is -1"));
  EXPECT_THAT(error({.kind = Kind::random_flip, .probability = 2}), HasSubstr("probability is 2"));
  const auto flat = float_dataset({4}, {1, 2, 3, 4}, {0});
  EXPECT_THAT(input_error([&] { Preprocess({{.kind = Kind::random_flip}}, *flat); }),
              AllOf(HasSubstr("data.preprocess[0]"), HasSubstr("(C, H, W)")));
}

TEST(Preprocess, ValuesThatAreNotFiniteNameTheRecord) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto data = float_dataset({2}, {0, 1, 2, inf}, {0, 0});
  EXPECT_THAT(run(*data, {}, 0), ElementsAre(0, 1));
  EXPECT_THAT(input_error([&] { run(*data, {}, 1); }), HasSubstr("floats: record 1"));
  EXPECT_THAT(input_error([&] { run(*counting_dataset(9), {{.factor = 3e38f}}, 8); }),
              HasSubstr("record 8"));
}

TEST(Preprocess, RefusesRecordsOfAnotherShape) {
  const Preprocess preprocess({}, *counting_dataset(2));
  float out[6];
  EXPECT_THAT(input_error([&] {
                preprocess.apply(*float_dataset({2}, {1, 2}, {0}), 0, 1, 0, false, out);
              }),
              AllOf(HasSubstr("(2)"), HasSubstr("(2, 3)")));
}

}  // namespace
}  // namespace peal
