// Tables of chosen ways of products and convolutions: what is written is read again, and what is
// refused.
#include "core/kernels/algorithm_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/file.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

using ::testing::HasSubstr;

constexpr const char* kText =
    "# Ways of products and convolutions that are quicker than a device's first; written by\n"
    "# peal bench algorithms --tune, read by jobs whose train.algorithms names this file.\n"
    "version: 1\n"
    "made_on: NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0\n"
    "product: m=8 n=16 k=32 transpose_a operands=f16 algorithm=63\n"
    "product: m=8192 n=2304 k=768 bias operands=bf16 result=bf16 algorithm=3\n"
    "product: batch=12 m=5 n=6 k=7 transpose_b broadcast_b addend activation=relu precision=tf32 "
    "algorithm=1\n"
    "product: batch=12 m=5 n=6 k=7 bias activation=gelu_tanh keeps_before slope algorithm=2\n"
    "convolution: pass=forward x=2x16x9x8 w=32x8x3x3 groups=2 bias activation=relu stored=f16 fast "
    "algorithm=9\n"
    "convolution: pass=backward_data x=256x64x56x56 w=64x64x3x1 stride=1x2 padding=1x0 "
    "dilation=2x1 precision=tf32 algorithm=1\n"
    "end: algorithms\n";

TEST(AlgorithmChoices, AreReadAsTheyAreWritten) {
  const AlgorithmChoices read = parse_algorithm_choices(kText, "table");
  EXPECT_EQ(read.made_on, "NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0");
  ASSERT_EQ(read.size(), 6u);
  EXPECT_EQ(read.products().size(), 4u);
  const MatmulSpec qkv{
      .m = 8192, .n = 2304, .k = 768, .bias = true, .operands = DType::bf16, .result = DType::bf16};
  EXPECT_EQ(read.algorithm(qkv), 3);
  EXPECT_EQ(read.algorithm({.batch = 12,
                            .m = 5,
                            .n = 6,
                            .k = 7,
                            .transpose_b = true,
                            .broadcast_b = true,
                            .addend = true,
                            .activation = Activation::relu,
                            .precision = Precision::tf32}),
            1);
  Conv2dSpec convolution{.x = {256, 64, 56, 56},
                         .w = {64, 64, 3, 1},
                         .stride = {1, 2},
                         .padding = {1, 0},
                         .dilation = {2, 1},
                         .bias = true,
                         .activation = Activation::relu,
                         .precision = Precision::tf32};
  EXPECT_EQ(read.algorithm({convolution, ConvPass::backward_data}), 1);
  EXPECT_EQ(read.algorithm({convolution, ConvPass::backward_weights}), 0);
  EXPECT_EQ(read.algorithm({convolution, ConvPass::forward}), 0);
  // In the order of the products, whatever the order in the file.
  const std::string printed = print_algorithm_choices(read);
  EXPECT_NE(printed, kText);
  EXPECT_EQ(print_algorithm_choices(parse_algorithm_choices(printed, "printed")), printed);
  std::string sorted = kText;
  const std::size_t third = sorted.find("product: batch"),
                    fourth = sorted.find("product: batch", third + 1);
  const std::string line = sorted.substr(third, fourth - third);
  sorted.erase(third, line.size());
  sorted.insert(sorted.find("convolution: "), line);
  EXPECT_EQ(printed, sorted);
}

// What has `one`, as 40, and each of the others, which differ from it, with a number of its own:
// here and when it is read again.
template <typename Spec>
AlgorithmChoices choices_of_all(const Spec& one, const std::vector<Spec>& others) {
  AlgorithmChoices choices;
  choices.made_on = "here";
  choices.choose(one, 40);
  for (std::size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(choices.algorithm(others[i]), 0) << text_of(others[i]);
    choices.choose(others[i], static_cast<int>(i) + 1);
  }
  EXPECT_EQ(choices.size(), others.size() + 1);
  const AlgorithmChoices read =
      parse_algorithm_choices(print_algorithm_choices(choices), "printed");
  EXPECT_EQ(read.algorithm(one), 40);
  for (std::size_t i = 0; i < others.size(); ++i)
    EXPECT_EQ(read.algorithm(others[i]), static_cast<int>(i) + 1) << text_of(others[i]);
  EXPECT_EQ(read.digest(), choices.digest());
  return choices;
}

// Every field tells products apart; another algorithm is no other product.
TEST(AlgorithmChoices, AProductIsAllOfItsFields) {
  const MatmulSpec product{.m = 2, .n = 3, .k = 4};
  std::vector<MatmulSpec> others(16, product);
  others[0].batch = 2;
  others[1].m = 5;
  others[2].n = 5;
  others[3].k = 5;
  others[4].transpose_a = true;
  others[5].transpose_b = true;
  others[6].broadcast_b = true;
  others[7].bias = true;
  others[8].addend = true;
  others[9].activation = Activation::relu;
  others[10].keeps_before = true;
  others[11].slope = true;
  others[12].precision = Precision::bf16;
  others[13].operands = DType::bf16;
  others[14].result = DType::bf16;
  others[15].sums = OperandSums::a;
  const AlgorithmChoices choices = choices_of_all(product, others);
  MatmulSpec same = product;
  same.algorithm = 9;
  EXPECT_EQ(choices.algorithm(same), 40);
}

// So it is with passes of convolutions; a bias and an activation are forward's alone.
TEST(AlgorithmChoices, AConvolutionIsAllOfItsFields) {
  const Conv2dSpec plain{.x = {2, 4, 6, 6}, .w = {8, 4, 3, 3}};
  const ConvCall call(plain, ConvPass::forward);
  std::vector<ConvCall> others(12, call);
  others[0].pass = ConvPass::backward_data;
  others[1].x[0] = 3;
  others[2].w[3] = 1;
  others[3].stride[1] = 2;
  others[4].padding[0] = 1;
  others[5].dilation[1] = 2;
  others[6].groups = 2;
  others[7].bias = true;
  others[8].activation = Activation::relu;
  others[9].precision = Precision::tf32;
  others[10].stored = DType::bf16;
  others[11].fast = true;
  const AlgorithmChoices choices = choices_of_all(call, others);

  Conv2dSpec same = plain;
  same.training = same.needs_dx = false;
  same.algorithms[0] = 5;
  EXPECT_EQ(choices.algorithm({same, ConvPass::forward}), 40);
  same.bias = true;
  same.activation = Activation::relu;
  EXPECT_EQ(choices.algorithm({same, ConvPass::forward}), 0);
  EXPECT_EQ(choices.algorithm({same, ConvPass::backward_data}), 1);
  same.deterministic = false;
  EXPECT_EQ(choices.algorithm({same, ConvPass::backward_data}), 0);
}

TEST(AlgorithmChoices, TheLastChoiceHolds) {
  AlgorithmChoices choices;
  choices.choose({.m = 2, .n = 3, .k = 4}, 5);
  choices.choose({.m = 2, .n = 3, .k = 4}, 7);
  EXPECT_EQ(choices.algorithm({.m = 2, .n = 3, .k = 4}), 7);
  choices.choose({.m = 2, .n = 3, .k = 4}, 0);
  EXPECT_EQ(choices.size(), 0u);
}

TEST(AlgorithmChoices, ADigestIsOfWhatIsChosen) {
  const AlgorithmChoices read = parse_algorithm_choices(kText, "table");
  const std::string printed = print_algorithm_choices(read);
  const auto digest_with = [&](const std::string& from, const std::string& to) {
    std::string text = printed;
    return parse_algorithm_choices(text.replace(text.find(from), from.size(), to), "t").digest();
  };
  EXPECT_EQ(digest_with("# Ways", "# Other words"), read.digest());
  EXPECT_NE(digest_with("algorithm=3", "algorithm=4"), read.digest());
  EXPECT_NE(digest_with("H100", "H200"), read.digest());
  EXPECT_NE(digest_with("m=8192", "m=8193"), read.digest());
  EXPECT_NE(digest_with("x=256x64", "x=256x65"), read.digest());
}

TEST(AlgorithmChoices, ATableOfNothingIsOne) {
  AlgorithmChoices none;
  none.made_on = "x";
  EXPECT_EQ(parse_algorithm_choices(print_algorithm_choices(none), "t").size(), 0u);
}

std::string refusal(const std::string& text) {
  try {
    parse_algorithm_choices(text, "table");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "none";
}

struct Wrong {
  const char *text, *refusal;
};
class Refused : public ::testing::TestWithParam<Wrong> {};

TEST_P(Refused, WithPlaceAndWhatIsAllowed) {
  EXPECT_THAT(refusal(GetParam().text), HasSubstr(GetParam().refusal));
}

#define HEAD "version: 1\nmade_on: x\n"
#define CONV "convolution: pass=forward x=1x1x1x1 w=1x1x1x1 "
INSTANTIATE_TEST_SUITE_P(
    AlgorithmChoices, Refused,
    ::testing::Values(
        Wrong{"", "table: is cut short"}, Wrong{"version: 1\n", "table: is cut short"},
        Wrong{HEAD, "table: is cut short: there is no line \"end: algorithms\""},
        Wrong{HEAD "end: product\n",
              "table:3 line: \"end: product\"; allowed: product: ..., convolution: ..., or end"},
        Wrong{HEAD "end: algorithms\nproduct: m=1 n=1 k=1 algorithm=1\n", "table:4 line: "},
        Wrong{"version: 2\nmade_on: x\n", "table: version 2; this Peal reads 1"},
        Wrong{"version: one\n", "table:1 version: \"one\"; allowed: 0 to"},
        Wrong{"made_on: x\n", "table:1 line: \"made_on: x\"; \"version: ...\" comes here"},
        Wrong{"version: 1\nmade_on: \n", "table:2 made_on: \"\"; allowed: plain text"},
        Wrong{"version: 1\nmade_on: \x01\n", "table:2 made_on: \"?\"; allowed: plain text"},
        Wrong{HEAD "\n# words\nhm\n", "table:5 line: \"hm\" is no `key: value`"},
        Wrong{HEAD "product: \n", "table:3 product: \"\" is no field; allowed: batch, m, n, k, "},
        Wrong{HEAD "product: m=1 n=1 k=1\n", "table:3 product: \"algorithm=\" is missing"},
        Wrong{HEAD "product: n=1 k=1 algorithm=1\n", "table:3 product: \"m=\" is missing"},
        Wrong{HEAD "product: m=1  n=1 k=1 algorithm=1\n", "table:3 product: \"\" is no field"},
        Wrong{HEAD "product: m=1 n=1 k=1 algorithm=1 \n", "table:3 product: \"\" is no field"},
        Wrong{HEAD "product: m=1 m=1 n=1 k=1 algorithm=1\n", "\"m\" is there twice"},
        Wrong{HEAD "product: m=1 n=1 k=1 colour=2 algorithm=1\n", "\"colour=2\" is no field"},
        Wrong{HEAD "product: m=1 n=1 k=1 bias=1 algorithm=1\n", "\"bias=1\"; allowed: bias"},
        Wrong{HEAD "product: m n=1 k=1 algorithm=1\n", "\"m\"; allowed: m=..."},
        Wrong{HEAD "product: m=0 n=1 k=1 algorithm=1\n",
              "table:3 m: \"0\"; allowed: 1 to 1099511627776"},
        Wrong{HEAD "product: m=1x n=1 k=1 algorithm=1\n", "table:3 m: \"1x\"; allowed"},
        Wrong{HEAD "product: m=1 n=1 k=99999999999999999999 algorithm=1\n", "table:3 k: "},
        Wrong{HEAD "product: m=1 n=1 k=1 algorithm=0\n", "algorithm: \"0\"; allowed: 1 to 63"},
        Wrong{HEAD "product: m=1 n=1 k=1 algorithm=64\n", "algorithm: \"64\"; allowed: 1 to 63"},
        Wrong{HEAD "product: m=1 n=1 k=1 activation=tanh algorithm=1\n",
              "activation: \"tanh\"; allowed: none, relu, gelu_tanh"},
        Wrong{HEAD "product: m=1 n=1 k=1 operands=i8 algorithm=1\n", "allowed: f32, bf16, f16"},
        Wrong{HEAD "product: m=1 n=1 k=1 precision=i8 algorithm=1\n",
              "allowed: f32, tf32, bf16, f16"},
        Wrong{HEAD "product: m=1 n=1 k=1 algorithm=1\nproduct: k=1 n=1 m=1 algorithm=2\n",
              "table:4 product: m=1 n=1 k=1 is there twice"},
        Wrong{HEAD "pooling: x=1x1x1x1\n",
              "table:3 line: \"pooling: x=1x1x1x1\"; allowed: product"},
        Wrong{HEAD CONV "stored=bf16\n", "table:3 convolution: \"algorithm=\" is missing"},
        Wrong{HEAD "convolution: x=1x1x1x1 w=1x1x1x1 algorithm=1\n",
              "table:3 convolution: \"pass=\" is missing"},
        Wrong{HEAD "convolution: pass=forward x=1x1x1x1 algorithm=1\n", "\"w=\" is missing"},
        Wrong{HEAD "convolution: pass=backward x=1x1x1x1 w=1x1x1x1 algorithm=1\n",
              "pass: \"backward\"; allowed: forward, backward_data, backward_weights"},
        Wrong{HEAD "convolution: pass=forward x=1x1x1 w=1x1x1x1 algorithm=1\n",
              "table:3 x: \"1x1x1\"; allowed: 4 numbers"},
        Wrong{HEAD "convolution: pass=forward x=1x1x1x0 w=1x1x1x1 algorithm=1\n",
              "table:3 x: \"0\"; allowed: 1 to 1099511627776"},
        Wrong{HEAD "convolution: pass=forward x=xxx w=1x1x1x1 algorithm=1\n",
              "table:3 x: \"\"; allowed: 1 to"},
        Wrong{HEAD CONV "padding=1 algorithm=1\n", "padding: \"1\"; allowed: 2 numbers"},
        Wrong{HEAD CONV "padding=0x-1 algorithm=1\n", "padding: \"-1\"; allowed: 0 to"},
        Wrong{HEAD CONV "stride=0x1 algorithm=1\n", "stride: \"0\"; allowed: 1 to"},
        Wrong{HEAD CONV "fast=1 algorithm=1\n", "\"fast=1\"; allowed: fast"},
        Wrong{HEAD CONV "m=1 algorithm=1\n", "\"m=1\" is no field; allowed: pass, x, w, "},
        Wrong{HEAD CONV "algorithm=1\n" CONV "algorithm=2\n",
              "table:4 convolution: pass=forward x=1x1x1x1 w=1x1x1x1 is there twice"}));

TEST(AlgorithmChoices, FilesAreReadInBounds) {
  const TemporaryFolder temporary;
  const std::filesystem::path& folder = temporary.path();
  const auto refused = [&](const std::filesystem::path& path) {
    try {
      read_algorithm_choices(path);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(refused(folder / "none"), HasSubstr("none: is no file"));
  EXPECT_THAT(refused(folder / "."), HasSubstr("is no file"));
  write_file_atomically(folder / "large", std::string((1 << 20) + 1, '#'));
  EXPECT_THAT(refused(folder / "large"),
              HasSubstr("1048577 bytes; a table of algorithms has at most"));
  write_file_atomically(folder / "table", kText);
  EXPECT_EQ(read_algorithm_choices(folder / "table").size(), 6u);
}

}  // namespace
}  // namespace peal
