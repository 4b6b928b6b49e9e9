#include "core/data/csv.h"

#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::Folder;
using testing::gzip;
using ::testing::HasSubstr;
using testing::input_error;
using ::testing::Not;
using testing::shared_data;

CsvTable parse(const std::string& text, const CsvOptions& options = {}) {
  return parse_csv(std::as_bytes(std::span(text)), options, "file.csv");
}

std::string error_of(const std::string& text, const CsvOptions& options = {}) {
  return input_error([&] { parse(text, options); });
}

TEST(Csv, HillValley) {
  const auto folder = shared_data("hill_valley");
  if (!std::filesystem::exists(folder)) return;  // shared_data has failed the test
  const auto data =
      open_csv(folder / "Hill_Valley_with_noise_Training.data", {.label_column = "class"});
  ASSERT_EQ(data->size(), 606);
  ASSERT_EQ(data->record_shape(), Shape{100});
  EXPECT_EQ(data->record_dtype(), DType::f32);
  check_class_labels(*data, 2);
  int hills = 0;
  for (int i = 0; i < 606; ++i) hills += data->label(i) == 1;
  EXPECT_EQ(hills, 299);
  EXPECT_EQ(static_cast<const float*>(data->record(0))[0], 39.02f);
  const auto tsv = open_csv(folder / "Hill_Valley_without_noise.tsv.gz",
                            {.label_column = "-1", .delimiter = '\t'});
  EXPECT_EQ(tsv->size(), 1212);
  EXPECT_EQ(tsv->record_shape(), Shape{100});
}

TEST(Csv, LabelColumnByNameAndNumber) {
  const std::string text = "a,label,b\n1,2,3\n4,5,6\n";
  for (const char* column : {"label", "1", "-2"}) {
    const CsvTable table = parse(text, {.label_column = column});
    EXPECT_EQ(table.features, 2);
    EXPECT_THAT(table.values, ElementsAre(1, 3, 4, 6));
    EXPECT_THAT(table.labels, ElementsAre(2, 5));
  }
  const CsvTable bare = parse("1,2\n3,4", {.header = false, .label_column = "0"});
  EXPECT_THAT(bare.values, ElementsAre(2, 4));
  EXPECT_THAT(bare.labels, ElementsAre(1, 3));
  // A name wins over a number.
  EXPECT_THAT(parse("0,1\n7,8\n", {.label_column = "1"}).labels, ElementsAre(8));
  EXPECT_THAT(parse("1,0\n7,8\n", {.label_column = "1"}).labels, ElementsAre(7));
}

TEST(Csv, QuotesLineEndsAndSpaces) {
  const CsvTable table =
      parse("\xEF\xBB\xBF\"a \"\"first\"\",\nname\",label\r\n\"1.5\",\"2\"\r\n +3 ,4e0\r\n\r\n\n",
            {.label_column = "label"});
  EXPECT_THAT(table.values, ElementsAre(1.5f, 3));
  EXPECT_THAT(table.labels, ElementsAre(2, 4));
}

TEST(Csv, NumbersOfEveryForm) {
  const CsvTable table = parse("a,label\n-0.5,1\n.25,1\n5.,1\n1e-60,1\n1E3,1\n0.1,1\n-1e-42,1\n");
  EXPECT_THAT(table.values, ElementsAre(-0.5f, 0.25f, 5, 0, 1000, 0.1f, -1e-42f));
}

TEST(Csv, Gzip) {
  EXPECT_THAT(parse(gzip("a,label\n1,2\n")).values, ElementsAre(1));
  const std::string packed = gzip("a,label\n1,2\n3,4\n");
  for (std::size_t n = 2; n < packed.size(); ++n) {
    EXPECT_THAT(error_of(packed.substr(0, n)), HasSubstr("end early"));
  }
}

TEST(Csv, RowsAcrossManyBlocks) {
  std::string text = "a,b,label\n";
  for (int i = 0; i < 60000; ++i) text += cat(i, ",\"", i % 7, "\",", i % 3, i % 2 ? "\r\n" : "\n");
  for (const std::string& file : {text, gzip(text)}) {
    const CsvTable table = parse(file);
    ASSERT_EQ(table.labels.size(), 60000u);
    for (int i = 0; i < 60000; ++i) {
      const auto at = static_cast<std::size_t>(i);
      ASSERT_EQ(table.values[2 * at], static_cast<float>(i));
      ASSERT_EQ(table.values[2 * at + 1], static_cast<float>(i % 7));
      ASSERT_EQ(table.labels[at], static_cast<float>(i % 3));
    }
  }
}

TEST(Csv, ErrorsNameTheLineAcrossQuotedNewlines) {
  EXPECT_THAT(error_of("\"a\n\n\",label\n1,2\nx,3\n"), HasSubstr("file.csv:5:"));
}

TEST(Csv, NotANumber) {
  for (const char* bad :
       {"x", "", "nan", "inf", "-inf", "1e39", "1,5", "0x10", "1 2", "--1", "+-1"}) {
    const std::string text = error_of(cat("height,label\n1,2\n\"", bad, "\",0\n"));
    EXPECT_THAT(text, AllOf(HasSubstr("file.csv:3: column 0 (\"height\") holds "), HasSubstr(bad),
                            HasSubstr("allowed are finite numbers")));
  }
  EXPECT_THAT(error_of("1,2\n3,yes\n", {.header = false, .label_column = "0"}),
              HasSubstr("file.csv:2: column 1 holds \"yes\""));
  EXPECT_THAT(error_of("a,label\n1,?\n"), HasSubstr("column 1 (\"label\") holds \"?\""));
}

TEST(Csv, RaggedRows) {
  EXPECT_THAT(error_of("a,b,label\n1,2,3\n1,2\n"),
              HasSubstr("file.csv:3: 2 columns; the first row has 3"));
  EXPECT_THAT(error_of("a,b,label\n1,2,3,4\n"), HasSubstr("file.csv:2: 4 columns"));
  EXPECT_THAT(error_of("a,label\n1,2\n\n3,4\n"), HasSubstr("file.csv:3: the line is empty"));
}

TEST(Csv, NoLabelColumn) {
  EXPECT_THAT(error_of("a,b\n1,2\n"), AllOf(HasSubstr("no label column \"label\""),
                                            HasSubstr("\"a\", \"b\""), HasSubstr("-2 to 1")));
  std::string many = "c0";
  for (int i = 1; i < 1000; ++i) many += cat(",c", i);
  EXPECT_THAT(error_of(many + "\n"),
              AllOf(HasSubstr("\"c9\""), Not(HasSubstr("\"c10\"")), HasSubstr("1000 columns")));
  EXPECT_THAT(error_of("1,2\n", {.header = false}), HasSubstr("without a header line"));
  EXPECT_THAT(error_of("a,b\n1,2\n", {.label_column = "2"}), HasSubstr("no label column \"2\""));
  EXPECT_THAT(error_of("a,b\n1,2\n", {.label_column = "-3"}), HasSubstr("no label column"));
  EXPECT_THAT(error_of("label,label\n1,2\n"), HasSubstr("two columns"));
  EXPECT_THAT(error_of("label\n1\n"), HasSubstr("1 column"));
}

TEST(Csv, EmptyFiles) {
  EXPECT_THAT(error_of(""), HasSubstr("is empty"));
  EXPECT_THAT(error_of(gzip("")), HasSubstr("is empty"));
  EXPECT_THAT(error_of("a,label\n"), HasSubstr("a header and no records"));
  EXPECT_NE(error_of("\n"), "");
  const Folder folder;
  EXPECT_THAT(input_error([&] { open_csv(folder / "none.csv", {}); }),
              AllOf(HasSubstr("none.csv"), HasSubstr("No such file")));
}

TEST(Csv, BrokenQuotes) {
  EXPECT_THAT(error_of("a,label\n\"1,2\n3,4\n"), HasSubstr("file.csv:2: a quote (\") is opened"));
  EXPECT_THAT(error_of("a,label\n1\"\",2\n"), HasSubstr("does not begin with one"));
  EXPECT_THAT(error_of("a,label\n\"1\"x,2\n"), HasSubstr("is followed by \"x\""));
}

TEST(Csv, NulBytesAndControlCharacters) {
  EXPECT_THAT(error_of(std::string("a,label\n1\0,2\n", 13)),
              AllOf(HasSubstr("file.csv:2"), HasSubstr("NUL")));
  EXPECT_THAT(error_of("a,label\n\x1b[31m,2\n"), Not(HasSubstr("\x1b")));
}

TEST(Csv, HugeFieldsAreShownShort) {
  const std::string huge(3 << 20, '7');
  EXPECT_LT(error_of("a,label\n" + huge + "x,2\n").size(), 200u);
  EXPECT_LT(error_of(huge + ",b\n1,2\n").size(), 200u);
  // Compressed a thousandfold: refused before it takes more than one row's memory.
  EXPECT_THAT(error_of(gzip("a,label\n" + std::string(70 << 20, '7'))), HasSubstr("64.0 MiB"));
}

TEST(Csv, DelimiterMustBeOneUsableCharacter) {
  for (const char bad : {'"', '\n', '\r', '\0'}) {
    EXPECT_THAT(error_of("a,label\n1,2\n", {.delimiter = bad}), HasSubstr("delimiter"));
  }
  EXPECT_THAT(parse("a;label\n1;2\n", {.delimiter = ';'}).labels, ElementsAre(2));
}

}  // namespace
}  // namespace peal
