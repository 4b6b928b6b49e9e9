#include "core/data/tokens.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/data/file_patterns.h"
#include "core/data/text.h"
#include "core/data/utf8.h"

namespace peal {
namespace {

constexpr std::int64_t kLongest = std::int64_t{1} << 24;

class Tokens final : public Dataset {
 public:
  Tokens(std::string name, std::vector<std::int32_t> tokens, const TokenWindows& windows)
      : name_(std::move(name)),
        tokens_(std::move(tokens)),
        shape_({windows.length + 1}),
        stride_(windows.stride) {
    const auto count = static_cast<std::int64_t>(tokens_.size());
    if (count < shape_[0]) {
      fail_input(name_, "the part of the text from ", windows.begin, " to ", windows.end, " has ",
                 count, " tokens; a record takes ", shape_[0], " (length + 1)");
    }
    size_ = (count - shape_[0]) / stride_ + 1;
  }

  std::int64_t size() const override { return size_; }
  const Shape& record_shape() const override { return shape_; }
  DType record_dtype() const override { return DType::i32; }
  const std::string& name() const override { return name_; }
  const void* record(std::int64_t index) const override { return at(index); }
  float label(std::int64_t index) const override {
    return static_cast<float>(*std::max_element(at(index), at(index) + shape_[0]));
  }

 private:
  const std::int32_t* at(std::int64_t index) const { return tokens_.data() + index * stride_; }

  std::string name_;
  std::vector<std::int32_t> tokens_;
  Shape shape_;
  std::int64_t stride_, size_ = 0;
};

TokenWindows checked(TokenWindows windows, const std::string& where) {
  if (windows.stride == 0) windows.stride = windows.length;
  for (const std::int64_t n : {windows.length, windows.stride}) {
    if (n < 1 || n > kLongest) {
      fail_input(where, "length ", windows.length, " and stride ", windows.stride,
                 "; allowed are 1 to ", kLongest);
    }
  }
  if (!(windows.begin >= 0 && windows.begin < windows.end && windows.end <= 1)) {
    fail_input(where, "the part from ", windows.begin, " to ", windows.end,
               "; allowed are parts of 0 to 1, the begin before the end");
  }
  return windows;
}

// Not within a character: before the one in which byte `at` lies.
std::size_t cut(std::string_view text, std::int64_t at) {
  if (at <= 0) return 0;
  if (at >= static_cast<std::int64_t>(text.size())) return text.size();
  const auto place = static_cast<std::size_t>(at);
  for (std::size_t back = 1; back <= 3 && back <= place; ++back) {
    if (utf8_character(text.substr(place - back)).bytes > back) return place - back;
  }
  return place;
}

}  // namespace

std::unique_ptr<Dataset> open_tokens(const std::vector<std::string>& patterns, Tokenizer& tokenizer,
                                     const TokenWindows& given) {
  std::vector<TextFile> files;
  std::int64_t bytes = 0;
  for (const std::filesystem::path& path : find_files(patterns, "tokens")) {
    files.emplace_back(path);
    bytes += static_cast<std::int64_t>(files.back().text().size());
  }
  const TokenWindows windows = checked(given, files[0].name());
  // Two parts that share a border share the cut.
  const auto begin =
      static_cast<std::int64_t>(std::floor(windows.begin * static_cast<double>(bytes)));
  const auto end = static_cast<std::int64_t>(std::floor(windows.end * static_cast<double>(bytes)));
  std::vector<std::int32_t> tokens;
  std::int64_t first = 0;  // byte of all that this file begins with
  for (const TextFile& file : files) {
    const std::string_view text = file.text();
    const std::size_t from = cut(text, begin - first), to = cut(text, end - first);
    first += static_cast<std::int64_t>(text.size());
    if (from < to) {
      if (!tokens.empty() && tokenizer.end_of_text()) tokens.push_back(*tokenizer.end_of_text());
      tokenizer.encode(text.substr(from, to - from), tokens);
    }
  }
  tokens.shrink_to_fit();
  return std::make_unique<Tokens>(files[0].name(), std::move(tokens), windows);
}

std::unique_ptr<Tokenizer> open_character_tokenizer(const std::vector<std::string>& patterns) {
  Alphabet alphabet;
  std::string name;
  for (const std::filesystem::path& path : find_files(patterns, "tokens")) {
    const TextFile file(path);
    alphabet.add(file.text());
    if (name.empty()) name = cat("characters of ", file.name());
  }
  return character_tokenizer(std::move(name), alphabet.characters());
}

bool holds_tokens(const Dataset& dataset) {
  return dataset.record_dtype() == DType::i32;
}

void check_tokens(const Dataset& dataset, std::int64_t vocabulary) {
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    const float largest = dataset.label(i);
    if (largest >= 0 && largest < static_cast<float>(vocabulary)) continue;
    fail_input(dataset.name(), "record ", i, " has token ", largest, "; the model's vocabulary is ",
               vocabulary, ", tokens 0 to ", vocabulary - 1);
  }
}

void read_tokens(const Dataset& dataset, std::int64_t record, std::int64_t vocabulary,
                 std::int32_t* x, std::int32_t* labels) {
  const std::int64_t length = dataset.record_shape()[0] - 1;
  const auto* tokens = static_cast<const std::int32_t*>(dataset.record(record));
  for (std::int64_t i = 0; i <= length; ++i) {
    if (tokens[i] >= 0 && tokens[i] < vocabulary) continue;
    fail_input(dataset.name(), "record ", record, " has token ", tokens[i], " at place ", i,
               "; the model's vocabulary is ", vocabulary, ", tokens 0 to ", vocabulary - 1);
  }
  std::copy(tokens, tokens + length, x);
  std::copy(tokens + 1, tokens + 1 + length, labels);
}

}  // namespace peal
