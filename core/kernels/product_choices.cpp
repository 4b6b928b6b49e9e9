#include "core/kernels/product_choices.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"

namespace peal {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 20, kLongestName = 200, kMostQuoted = 60;
constexpr std::string_view kEnd = "products";

// The one list of what tells products apart. A field that is new in MatmulSpec does not compile
// here until it stands in both.
constexpr std::array kNames{"batch",        "m",           "n",    "k",         "transpose_a",
                            "transpose_b",  "broadcast_b", "bias", "addend",    "activation",
                            "keeps_before", "slope",       "sums", "precision", "operands",
                            "result"};
template <typename Spec>
auto fields(Spec& spec) {
  auto& [batch, m, n, k, transpose_a, transpose_b, broadcast_b, bias, addend, activation,
         keeps_before, slope, sums, precision, operands, result, algorithm] = spec;
  static_cast<void>(algorithm);
  return std::tie(batch, m, n, k, transpose_a, transpose_b, broadcast_b, bias, addend, activation,
                  keeps_before, slope, sums, precision, operands, result);
}
static_assert(std::tuple_size_v<decltype(fields(std::declval<MatmulSpec&>()))> == kNames.size());

// ---- Values as text ------------------------------------------------------------------------

template <typename Enum>
struct Named {
  Enum value;
  std::string_view name;
};
template <typename Enum, std::size_t n>
using Names = std::array<Named<Enum>, n>;
constexpr Names<Activation, 3> kActivations{
    {{Activation::none, "none"}, {Activation::relu, "relu"}, {Activation::gelu_tanh, "gelu_tanh"}}};
constexpr Names<OperandSums, 3> kSums{
    {{OperandSums::none, "none"}, {OperandSums::a, "a"}, {OperandSums::b, "b"}}};
constexpr Names<Precision, 4> kPrecisions{{{Precision::f32, "f32"},
                                           {Precision::tf32, "tf32"},
                                           {Precision::bf16, "bf16"},
                                           {Precision::f16, "f16"}}};
constexpr Names<DType, 3> kDTypes{
    {{DType::f32, "f32"}, {DType::bf16, "bf16"}, {DType::f16, "f16"}}};
constexpr const auto& names(Activation) {
  return kActivations;
}
constexpr const auto& names(OperandSums) {
  return kSums;
}
constexpr const auto& names(Precision) {
  return kPrecisions;
}
constexpr const auto& names(DType) {
  return kDTypes;
}

std::string value_text(std::int64_t value) {
  return std::to_string(value);
}
template <typename Enum>
std::string value_text(Enum value) {
  for (const auto& [known, name] : names(value))
    if (known == value) return std::string(name);
  fail_internal("product choices", "value ", static_cast<int>(value), " has no name");
}

std::string quoted(std::string_view text) {
  std::string plain(text.substr(0, kMostQuoted));
  for (char& c : plain)
    if (c < ' ' || c > '~') c = '?';
  return '"' + plain + (text.size() > kMostQuoted ? "..." : "") + '"';
}

// ---- Reading -------------------------------------------------------------------------------

class Reader {
 public:
  Reader(std::string_view text, const std::string& where) : rest_(text), where_(where) {}

  ProductChoices read() {
    ProductChoices choices;
    expect_version(value_of("version"));
    choices.made_on = name(value_of("made_on"));
    for (next_line(); key_ == "product"; next_line()) read_product(choices);
    if (key_ != "end" || value_ != kEnd)
      refuse("line", cat(quoted(line_), "; allowed: product: ..., or end: ", kEnd));
    if (more()) refuse("line", cat(quoted(line_), " behind the end"));
    return choices;
  }

 private:
  // The next line that says anything; false behind the last.
  bool more() {
    while (!rest_.empty()) {
      const std::size_t end = std::min(rest_.find('\n'), rest_.size());
      line_ = rest_.substr(0, end);
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      ++number_;
      if (!line_.empty() && line_[0] != '#') return true;
    }
    return false;
  }
  void next_line() {
    if (!more()) fail_input(where_, "is cut short: there is no line \"end: ", kEnd, "\"");
    const std::size_t colon = line_.find(": ");
    if (colon == std::string_view::npos) refuse("line", cat(quoted(line_), " is no `key: value`"));
    key_ = line_.substr(0, colon);
    value_ = line_.substr(colon + 2);
  }
  std::string_view value_of(std::string_view key) {
    next_line();
    if (key_ != key) refuse("line", cat(quoted(line_), "; \"", key, ": ...\" comes here"));
    return value_;
  }

  void expect_version(std::string_view text) const {
    const std::int64_t version = number("version", text, 0, INT32_MAX);
    if (version != ProductChoices::kVersion) {
      fail_input(where_, "version ", version, "; this Peal reads ", ProductChoices::kVersion,
                 ": run peal bench products --tune again");
    }
  }
  std::string name(std::string_view text) const {
    const bool plain =
        std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
    if (!plain || text.empty() || text.size() > kLongestName)
      refuse("made_on",
             cat(quoted(text), "; allowed: plain text of 1 to ", kLongestName, " characters"));
    return std::string(text);
  }

  void read_product(ProductChoices& choices) {
    MatmulSpec spec;
    std::set<std::string_view> given;
    std::string_view rest = value_;
    for (bool last = false; !last;) {
      const std::size_t space = rest.find(' ');
      last = space == std::string_view::npos;
      const std::string_view word = rest.substr(0, space);
      if (!last) rest.remove_prefix(space + 1);
      const std::size_t equals = std::min(word.find('='), word.size());
      const std::string_view field = word.substr(0, equals);
      if (!given.insert(field).second) refuse("product", cat(quoted(field), " is there twice"));
      set(spec, field, word.substr(equals), word);
    }
    for (const std::string_view needed : {"m", "n", "k", "algorithm"})
      if (!given.contains(needed)) refuse("product", cat("\"", needed, "=\" is missing"));
    if (choices.algorithm(spec) != 0) refuse("product", text_of(spec) + " is there twice");
    choices.choose(spec, spec.algorithm);
  }

  // `value` begins with its =, or is empty where there is none.
  void set(MatmulSpec& spec, std::string_view field, std::string_view value,
           std::string_view word) const {
    bool known = false;
    const auto take = [&](std::string_view name, auto& into) {
      if (name != field) return;
      known = true;
      using Type = std::remove_reference_t<decltype(into)>;
      const bool is_bool = std::is_same_v<Type, bool>;
      if (value.empty() != is_bool)
        refuse("product", cat(quoted(word), "; allowed: ", name, is_bool ? "" : "=..."));
      if constexpr (is_bool) {
        into = true;
      } else {
        parse(name, value.substr(1), into);
      }
    };
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      (take(kNames[i], std::get<i>(fields(spec))), ...);
    }
    (std::make_index_sequence<kNames.size()>());
    take("algorithm", spec.algorithm);
    if (known) return;
    std::string all;
    for (const char* name : kNames) all += cat(name, ", ");
    refuse("product", cat(quoted(word), " is no field; allowed: ", all, "algorithm"));
  }

  void parse(std::string_view field, std::string_view text, std::int64_t& into) const {
    into = number(field, text, 1, ProductChoices::kMostSize);
  }
  void parse(std::string_view field, std::string_view text, int& into) const {
    into = static_cast<int>(number(field, text, 1, ProductChoices::kMostAlgorithm));
  }
  template <typename Enum>
  void parse(std::string_view field, std::string_view text, Enum& into) const {
    std::vector<std::string> allowed;
    for (const auto& [value, name] : names(into)) {
      if (name == text) {
        into = value;
        return;
      }
      allowed.emplace_back(name);
    }
    refuse(field, cat(quoted(text), "; allowed: ", join(allowed)));
  }
  std::int64_t number(std::string_view field, std::string_view text, std::int64_t least,
                      std::int64_t most) const {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
      refuse(field, cat(quoted(text), "; allowed: ", least, " to ", most));
    return value;
  }

  [[noreturn]] void refuse(std::string_view what, const std::string& why) const {
    fail_input(cat(where_, ":", number_, " ", what), why);
  }

  std::string_view rest_, line_, key_, value_;
  const std::string& where_;
  int number_ = 0;  // of the line
};

}  // namespace

std::string text_of(const MatmulSpec& product) {
  const MatmulSpec plain;
  const auto given = fields(product), usual = fields(plain);
  std::vector<std::string> words;
  const auto add = [&](const std::string& name, const auto& value, const auto& by_default) {
    if (value == by_default) return;
    if constexpr (std::is_same_v<decltype(value), const bool&>) {
      words.push_back(name);
    } else {
      words.push_back(name + '=' + value_text(value));
    }
  };
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (add(kNames[i], std::get<i>(given), std::get<i>(usual)), ...);
  }
  (std::make_index_sequence<kNames.size()>());
  return join(words, " ");
}

bool ProductOrder::operator()(const MatmulSpec& a, const MatmulSpec& b) const {
  return fields(a) < fields(b);
}

namespace {

std::string text_without_comments(const ProductChoices& choices) {
  std::string text =
      cat("version: ", ProductChoices::kVersion, "\nmade_on: ", choices.made_on, "\n");
  for (const auto& [product, algorithm] : choices.all())
    text += cat("product: ", text_of(product), " algorithm=", algorithm, "\n");
  return text + cat("end: ", kEnd, "\n");
}

}  // namespace

int ProductChoices::algorithm(const MatmulSpec& product) const {
  const auto found = chosen_.find(product);
  return found == chosen_.end() ? 0 : found->second;
}

void ProductChoices::choose(const MatmulSpec& product, int algorithm) {
  chosen_.erase(product);
  if (algorithm != 0) chosen_.emplace(product, algorithm);
}

std::uint64_t ProductChoices::digest() const {
  const std::string text = text_without_comments(*this);
  return xxh64(text.data(), text.size());
}

ProductChoices parse_product_choices(std::string_view text, const std::string& where) {
  return Reader(text, where).read();
}

std::string print_product_choices(const ProductChoices& choices) {
  return cat(
      "# Ways of matrix products that are quicker than a device's first; written by\n"
      "# peal bench products --tune, read by jobs whose train.products names this file.\n",
      text_without_comments(choices));
}

ProductChoices read_product_choices(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail_input(path.string(), "is no file");
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error || bytes > kMostBytes)
    fail_input(path.string(), bytes, " bytes; a table of products has at most ", kMostBytes);
  return parse_product_choices(read_file(path), path.string());
}

}  // namespace peal
