// Tables of chosen ways of products: what is written is read again, and what is refused.
#include "core/kernels/product_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/file.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

using ::testing::HasSubstr;

constexpr const char* kText =
    "# Ways of matrix products that are quicker than a device's first; written by\n"
    "# peal bench products --tune, read by jobs whose train.products names this file.\n"
    "version: 1\n"
    "made_on: NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0\n"
    "product: m=8 n=16 k=32 transpose_a operands=f16 algorithm=63\n"
    "product: m=8192 n=2304 k=768 bias operands=bf16 result=bf16 algorithm=3\n"
    "product: batch=12 m=5 n=6 k=7 transpose_b broadcast_b addend activation=relu precision=tf32 "
    "algorithm=1\n"
    "product: batch=12 m=5 n=6 k=7 bias activation=gelu_tanh keeps_before slope algorithm=2\n"
    "end: products\n";

TEST(ProductChoices, AreReadAsTheyAreWritten) {
  const ProductChoices read = parse_product_choices(kText, "table");
  EXPECT_EQ(read.made_on, "NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0");
  ASSERT_EQ(read.size(), 4u);
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
  // In the order of the products, whatever the order in the file.
  const std::string printed = print_product_choices(read);
  EXPECT_NE(printed, kText);
  EXPECT_EQ(print_product_choices(parse_product_choices(printed, "printed")), printed);
  std::string sorted = kText;
  const std::size_t third = sorted.find("product: batch"),
                    fourth = sorted.find("product: batch", third + 1);
  const std::string line = sorted.substr(third, fourth - third);
  sorted.erase(third, line.size());
  sorted.insert(sorted.find("end: "), line);
  EXPECT_EQ(printed, sorted);
}

// Every field tells products apart; another algorithm is no other product.
TEST(ProductChoices, AProductIsAllOfItsFields) {
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
  ProductChoices choices;
  choices.made_on = "here";
  choices.choose(product, 5);
  for (std::size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(choices.algorithm(others[i]), 0) << text_of(others[i]);
    choices.choose(others[i], static_cast<int>(i) + 1);
  }
  EXPECT_EQ(choices.size(), others.size() + 1);
  MatmulSpec same = product;
  same.algorithm = 9;
  EXPECT_EQ(choices.algorithm(same), 5);
  const ProductChoices read = parse_product_choices(print_product_choices(choices), "printed");
  EXPECT_EQ(read.algorithm(product), 5);
  for (std::size_t i = 0; i < others.size(); ++i)
    EXPECT_EQ(read.algorithm(others[i]), static_cast<int>(i) + 1) << text_of(others[i]);
  EXPECT_EQ(read.digest(), choices.digest());
}

TEST(ProductChoices, TheLastChoiceHolds) {
  ProductChoices choices;
  choices.choose({.m = 2, .n = 3, .k = 4}, 5);
  choices.choose({.m = 2, .n = 3, .k = 4}, 7);
  EXPECT_EQ(choices.algorithm({.m = 2, .n = 3, .k = 4}), 7);
  choices.choose({.m = 2, .n = 3, .k = 4}, 0);
  EXPECT_EQ(choices.size(), 0u);
}

TEST(ProductChoices, ADigestIsOfWhatIsChosen) {
  const ProductChoices read = parse_product_choices(kText, "table");
  const std::string printed = print_product_choices(read);
  const auto digest_with = [&](const std::string& from, const std::string& to) {
    std::string text = printed;
    return parse_product_choices(text.replace(text.find(from), from.size(), to), "t").digest();
  };
  EXPECT_EQ(digest_with("# Ways", "# Other words"), read.digest());
  EXPECT_NE(digest_with("algorithm=3", "algorithm=4"), read.digest());
  EXPECT_NE(digest_with("H100", "H200"), read.digest());
  EXPECT_NE(digest_with("m=8192", "m=8193"), read.digest());
}

TEST(ProductChoices, ATableOfNothingIsOne) {
  ProductChoices none;
  none.made_on = "x";
  EXPECT_EQ(parse_product_choices(print_product_choices(none), "t").size(), 0u);
}

std::string refusal(const std::string& text) {
  try {
    parse_product_choices(text, "table");
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
INSTANTIATE_TEST_SUITE_P(
    ProductChoices, Refused,
    ::testing::Values(
        Wrong{"", "table: is cut short"}, Wrong{"version: 1\n", "table: is cut short"},
        Wrong{HEAD, "table: is cut short: there is no line \"end: products\""},
        Wrong{HEAD "end: product\n",
              "table:3 line: \"end: product\"; allowed: product: ..., or end"},
        Wrong{HEAD "end: products\nproduct: m=1 n=1 k=1 algorithm=1\n", "table:4 line: "},
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
              "table:4 product: m=1 n=1 k=1 is there twice"}));

TEST(ProductChoices, FilesAreReadInBounds) {
  const TemporaryFolder temporary;
  const std::filesystem::path& folder = temporary.path();
  const auto refused = [&](const std::filesystem::path& path) {
    try {
      read_product_choices(path);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(refused(folder / "none"), HasSubstr("none: is no file"));
  EXPECT_THAT(refused(folder / "."), HasSubstr("is no file"));
  write_file_atomically(folder / "large", std::string((1 << 20) + 1, '#'));
  EXPECT_THAT(refused(folder / "large"),
              HasSubstr("1048577 bytes; a table of products has at most"));
  write_file_atomically(folder / "table", kText);
  EXPECT_EQ(read_product_choices(folder / "table").size(), 4u);
}

}  // namespace
}  // namespace peal
