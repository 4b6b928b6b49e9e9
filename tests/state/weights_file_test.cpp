// Weights that another program saved: names, shapes and dtypes are compared before anything is
// copied, and what is wrong is told in one message.
#include "core/state/weights_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/state/safetensors.h"
#include "tests/state/state_testing.h"

namespace peal {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

bool ignores_counts(const std::string& name) {
  return name.ends_with("count");
}

class WeightsFile : public ::testing::Test {
 protected:
  WeightsFile() : a_(4, 7), b_(2, 7) {}

  std::vector<NamedTensor> model() {
    return {{"a", {a_.data(), {2, 2}, DType::f32}}, {"b", {b_.data(), {2}, DType::f32}}};
  }
  void load(const std::filesystem::path& path) { load_weights_file(path, model(), ignores_counts); }
  void write(const std::string& name, const std::vector<NamedTensor>& tensors) {
    write_safetensors(folder_.path() / name, tensors, {});
  }
  // What is wrong with such a file; nothing may then have been copied.
  std::string error(const std::vector<NamedTensor>& tensors) {
    write("x.safetensors", tensors);
    return error_of("x.safetensors");
  }
  std::string error_of(const std::string& name) {
    const std::string what = input_error([&] { load(folder_.path() / name); });
    EXPECT_THAT(what, StartsWith(folder_.path().string()));
    EXPECT_THAT(a_, ElementsAre(7, 7, 7, 7));
    EXPECT_THAT(b_, ElementsAre(7, 7));
    return what;
  }

  TemporaryFolder folder_;
  std::vector<float> a_, b_;
  float four_[4] = {1, 2, 3, 4}, two_[2] = {5, 6};
  std::int64_t count_ = 100;
  NamedTensor good_a_{"a", {four_, {2, 2}, DType::f32}}, good_b_{"b", {two_, {2}, DType::f32}};
  NamedTensor counter_{"norm.count", {&count_, {}, DType::i64}};
};

TEST_F(WeightsFile, IsLoadedByName) {
  write("x.safetensors", {good_b_, counter_, good_a_});
  load(folder_.path() / "x.safetensors");
  EXPECT_THAT(a_, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(b_, ElementsAre(5, 6));
}

TEST_F(WeightsFile, OfOtherFloatsBecomesF32) {
  const double doubles[4] = {0.1, -1e300, 1e-46, std::nan("")};
  const std::uint16_t halves[2] = {0x3f80, 0xff80};  // as bf16: 1 and -inf
  write("x.safetensors", {{"a", {const_cast<double*>(doubles), {2, 2}, DType::f64}},
                          {"b", {const_cast<std::uint16_t*>(halves), {2}, DType::bf16}}});
  load(folder_.path() / "x.safetensors");
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_THAT(a_, ElementsAre(0.1f, -kInfinity, 0.0f, ::testing::IsNan()));
  EXPECT_THAT(b_, ElementsAre(1.0f, -kInfinity));
}

TEST_F(WeightsFile, OfHalvesBecomesF32) {
  // 1.5, the largest finite, the smallest subnormal, the largest subnormal; -0 and inf
  const std::uint16_t a[4] = {0x3e00, 0x7bff, 0x0001, 0x83ff}, b[2] = {0x8000, 0x7c00};
  write("x.safetensors", {{"a", {const_cast<std::uint16_t*>(a), {2, 2}, DType::f16}},
                          {"b", {const_cast<std::uint16_t*>(b), {2}, DType::f16}}});
  load(folder_.path() / "x.safetensors");
  EXPECT_THAT(a_, ElementsAre(1.5f, 65504.0f, 0x1p-24f, -1023 * 0x1p-24f));
  EXPECT_THAT(b_, ElementsAre(-0.0f, std::numeric_limits<float>::infinity()));
  EXPECT_TRUE(std::signbit(b_[0]));
  const std::uint16_t nan[2] = {0x7e01, 0};
  write("x.safetensors", {good_a_, {"b", {const_cast<std::uint16_t*>(nan), {2}, DType::f16}}});
  load(folder_.path() / "x.safetensors");
  EXPECT_TRUE(std::isnan(b_[0]));
}

// The format allows tensors on any byte: an i8 of one byte comes first.
TEST_F(WeightsFile, NeedNotBeAligned) {
  std::int8_t byte = 0;
  write("x.safetensors", {{"count", {&byte, {1}, DType::i8}}, good_a_, good_b_});
  load(folder_.path() / "x.safetensors");
  EXPECT_THAT(a_, ElementsAre(1, 2, 3, 4));
}

TEST_F(WeightsFile, MayHoldOldNames) {
  float variance[1] = {3};
  float into[1] = {0};
  write("x.safetensors", {{"norm.running_variance", {variance, {1}, DType::f32}}});
  const std::vector<NamedTensor> model = {{"norm.running_var", {into, {1}, DType::f32}}};
  load_weights_file(folder_.path() / "x.safetensors", model, ignores_counts);
  EXPECT_EQ(into[0], 3);
}

TEST_F(WeightsFile, NamesWhatIsMissingAndLeftOver) {
  EXPECT_THAT(error({good_b_, counter_}),
              AllOf(HasSubstr("lacks 1 tensor of the model: a. "),
                    HasSubstr("under its name: a, b"), Not(HasSubstr("norm.count"))));
  EXPECT_THAT(error({good_a_, good_b_, {"c", good_b_.tensor}}),
              HasSubstr("has 1 tensor that the model has not: c. "));
  std::vector<NamedTensor> many = {good_a_};
  for (const char* name : {"b1", "b2", "b3", "b4", "b5", "b6", "b7"})
    many.push_back({name, good_b_.tensor});
  EXPECT_THAT(error(many), HasSubstr("lacks 1 tensor of the model: b; it has 7 tensors that the "
                                     "model has not: b1, b2, b3, b4, b5 and 2 more. "));
}

TEST_F(WeightsFile, NamesOtherShapesAndDtypes) {
  EXPECT_THAT(
      error({{"a", {four_, {4}, DType::f32}}, good_b_}),
      HasSubstr("has 1 tensor of another shape than the model: a is (4) and must be (2, 2)"));
  std::int32_t whole[2] = {};
  EXPECT_THAT(error({good_a_, {"b", {whole, {2}, DType::i32}}}),
              AllOf(HasSubstr("has 1 tensor of a dtype that does not become f32: b i32"),
                    HasSubstr("allowed are f32, f16, bf16 and f64")));
}

TEST_F(WeightsFile, MustBeWhole) {
  EXPECT_THAT(error_of("none.safetensors"), HasSubstr("none.safetensors"));
  write("x.safetensors", {good_a_, good_b_});
  const std::string bytes = slurp(folder_.path() / "x.safetensors");
  spit(folder_.path() / "x.safetensors", bytes.substr(0, bytes.size() - 1));
  EXPECT_THAT(error_of("x.safetensors"), HasSubstr("truncated"));
  spit(folder_.path() / "x.safetensors", "PK\x03\x04 what torch.save writes");
  EXPECT_THAT(error_of("x.safetensors"), HasSubstr("header"));
}

TEST_F(WeightsFile, MayBeInSeveralFiles) {
  write("model-1.safetensors", {good_a_});
  write("model-2.safetensors", {good_b_, counter_});
  const auto index = folder_.path() / "model.safetensors.index.json";
  spit(index, R"({"metadata": {"total_size": 24}, "weight_map": {"a": "model-1.safetensors",
               "b": "model-2.safetensors", "norm.count": "model-2.safetensors"}})");
  for (const std::filesystem::path& path : {index, folder_.path()}) {
    a_ = {7, 7, 7, 7}, b_ = {7, 7};
    load(path);
    EXPECT_THAT(a_, ElementsAre(1, 2, 3, 4));
    EXPECT_THAT(b_, ElementsAre(5, 6));
  }
}

TEST_F(WeightsFile, InAFolderHasAKnownName) {
  write("model.safetensors", {good_a_, good_b_});
  load(folder_.path());
  EXPECT_THAT(b_, ElementsAre(5, 6));
  std::filesystem::remove(folder_.path() / "model.safetensors");
  a_ = {7, 7, 7, 7}, b_ = {7, 7};
  EXPECT_THAT(error_of(""), HasSubstr("model.safetensors.index.json, model.safetensors"));
}

TEST_F(WeightsFile, RefusesAnIndexThatIsWrong) {
  write("one.safetensors", {good_a_, good_b_});
  write("two.safetensors", {good_b_});
  const auto wrong = [&](const std::string& text) {
    spit(folder_.path() / "i.json", text);
    return error_of("i.json");
  };
  EXPECT_THAT(wrong("{"), HasSubstr("the index is no JSON"));
  EXPECT_THAT(wrong("[[[[[[1]]]]]]"), HasSubstr("nested too deeply"));
  EXPECT_THAT(wrong("{}"), HasSubstr("has no weight_map"));
  for (const char* file :
       {R"("../one.safetensors")", R"("/one.safetensors")", R"("")", R"("..")", R"(".")", "3"}) {
    EXPECT_THAT(wrong(cat(R"({"weight_map": {"a": )", file, "}}")),
                HasSubstr("a file must lie beside the index"))
        << file;
  }
  EXPECT_THAT(wrong(R"({"weight_map": {"a": "none.safetensors"}})"), HasSubstr("none.safetensors"));
  EXPECT_THAT(wrong(R"({"weight_map": {"a": "one.safetensors", "c": "one.safetensors"}})"),
              HasSubstr("says that tensor \"c\" is in one.safetensors, which has none"));
  spit(folder_.path() / "i.json",
       R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  EXPECT_THAT(error_of("two.safetensors"), HasSubstr("lacks"));
  EXPECT_THAT(input_error([&] { load(folder_.path() / "i.json"); }),
              HasSubstr("two.safetensors: tensor \"b\" is in another file, too"));
}

}  // namespace
}  // namespace peal
