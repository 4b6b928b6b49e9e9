#include "core/kernels/algorithm_choices.h"

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
constexpr std::string_view kEnd = "algorithms";

// The one list of what tells products apart, and passes of convolutions. A field that is new in
// MatmulSpec, Conv2dSpec or ConvCall does not compile until it stands here.
template <typename Spec>
struct Words;

template <>
struct Words<MatmulSpec> {
  static constexpr std::string_view key = "product";
  static constexpr std::array<std::string_view, 3> needed{"m", "n", "k"};
  static constexpr std::array names{
      "batch",       "m",         "n",        "k",          "transpose_a",  "transpose_b",
      "broadcast_b", "bias",      "addend",   "activation", "keeps_before", "slope",
      "sums",        "precision", "operands", "result"};
  template <typename Spec>
  static auto fields(Spec& spec) {
    auto& [batch, m, n, k, transpose_a, transpose_b, broadcast_b, bias, addend, activation,
           keeps_before, slope, sums, precision, operands, result, algorithm] = spec;
    static_cast<void>(algorithm);
    return std::tie(batch, m, n, k, transpose_a, transpose_b, broadcast_b, bias, addend, activation,
                    keeps_before, slope, sums, precision, operands, result);
  }
};

template <>
struct Words<ConvCall> {
  static constexpr std::string_view key = "convolution";
  static constexpr std::array<std::string_view, 3> needed{"pass", "x", "w"};
  static constexpr std::array names{"pass",       "x",         "w",      "stride",
                                    "padding",    "dilation",  "groups", "bias",
                                    "activation", "precision", "stored", "fast"};
  template <typename Spec>
  static auto fields(Spec& call) {
    auto& [pass, x, w, stride, padding, dilation, groups, bias, activation, precision, stored,
           fast] = call;
    return std::tie(pass, x, w, stride, padding, dilation, groups, bias, activation, precision,
                    stored, fast);
  }
};

template <typename Spec>
auto fields(Spec& spec) {
  using Known = Words<std::remove_const_t<Spec>>;
  const auto all = Known::fields(spec);
  static_assert(std::tuple_size_v<decltype(Known::fields(spec))> == Known::names.size());
  return all;
}

// do_it(name, field of a, field of b, ...) of each field.
template <typename Do, typename Spec, typename... Specs>
void for_fields(const Do& do_it, Spec& first, Specs&... others) {
  constexpr const auto& names = Words<std::remove_const_t<Spec>>::names;
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    const auto one = [&]<std::size_t n>(std::integral_constant<std::size_t, n>) {
      do_it(std::string_view(names[n]), std::get<n>(fields(first)), std::get<n>(fields(others))...);
    };
    (one(std::integral_constant<std::size_t, i>()), ...);
  }
  (std::make_index_sequence<names.size()>());
}

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
constexpr Names<ConvPass, kConvPasses> kPasses{{{ConvPass::forward, "forward"},
                                                {ConvPass::backward_data, "backward_data"},
                                                {ConvPass::backward_weights, "backward_weights"}}};
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
constexpr const auto& names(ConvPass) {
  return kPasses;
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
// "64x3x7x7".
template <typename Numbers>
requires(std::is_same_v<Numbers, Shape> ||
         std::is_same_v<Numbers, std::array<std::int64_t, 2>>) std::string
    value_text(const Numbers& values) {
  std::string text;
  for (const std::int64_t value : values) text += cat(text.empty() ? "" : "x", value);
  return text;
}
template <typename Enum>
requires(std::is_enum_v<Enum>) std::string value_text(Enum value) {
  for (const auto& [known, name] : names(value))
    if (known == value) return std::string(name);
  fail_internal("algorithm choices", "value ", static_cast<int>(value), " has no name");
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

  AlgorithmChoices read() {
    AlgorithmChoices choices;
    expect_version(value_of("version"));
    choices.made_on = name(value_of("made_on"));
    for (next_line(); key_ != "end"; next_line()) {
      if (key_ == Words<MatmulSpec>::key) {
        read_line<MatmulSpec>(choices);
      } else if (key_ == Words<ConvCall>::key) {
        read_line<ConvCall>(choices);
      } else {
        refuse_line();
      }
    }
    if (value_ != kEnd) refuse_line();
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
    if (version != AlgorithmChoices::kVersion) {
      fail_input(where_, "version ", version, "; this Peal reads ", AlgorithmChoices::kVersion,
                 ": run peal bench algorithms --tune again");
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

  template <typename Spec>
  void read_line(AlgorithmChoices& choices) {
    Spec spec;
    int algorithm = 0;
    std::set<std::string_view> given;
    std::string_view rest = value_;
    for (bool last = false; !last;) {
      const std::size_t space = rest.find(' ');
      last = space == std::string_view::npos;
      const std::string_view word = rest.substr(0, space);
      if (!last) rest.remove_prefix(space + 1);
      const std::string_view field = word.substr(0, word.find('='));
      if (!given.insert(field).second) refuse(key_, cat(quoted(field), " is there twice"));
      set(spec, algorithm, field, word);
    }
    const auto need = [&](std::string_view field) {
      if (!given.contains(field)) refuse(key_, cat("\"", field, "=\" is missing"));
    };
    for (const std::string_view field : Words<Spec>::needed) need(field);
    need("algorithm");
    if (choices.algorithm(spec) != 0) refuse(key_, text_of(spec) + " is there twice");
    choices.choose(spec, algorithm);
  }

  template <typename Spec>
  void set(Spec& spec, int& algorithm, std::string_view field, std::string_view word) const {
    bool known = false;
    const std::string_view value = word.substr(field.size());  // with its =, or nothing
    const auto take = [&](std::string_view name, auto& into) {
      if (name != field) return;
      known = true;
      using Type = std::remove_reference_t<decltype(into)>;
      const bool is_bool = std::is_same_v<Type, bool>;
      if (value.empty() != is_bool)
        refuse(key_, cat(quoted(word), "; allowed: ", name, is_bool ? "" : "=..."));
      if constexpr (is_bool) {
        into = true;
      } else {
        parse(name, value.substr(1), into);
      }
    };
    for_fields(take, spec);
    take("algorithm", algorithm);
    if (known) return;
    std::string all;
    for (const char* name : Words<Spec>::names) all += cat(name, ", ");
    refuse(key_, cat(quoted(word), " is no field; allowed: ", all, "algorithm"));
  }

  void parse(std::string_view field, std::string_view text, std::int64_t& into) const {
    into = number(field, text, 1, AlgorithmChoices::kMostSize);
  }
  void parse(std::string_view field, std::string_view text, int& into) const {
    into = static_cast<int>(number(field, text, 1, AlgorithmChoices::kMostAlgorithm));
  }
  void parse(std::string_view field, std::string_view text, Shape& into) const {
    std::array<std::int64_t, 4> sizes{};
    parse_row(field, text, 1, sizes);
    into = Shape{sizes[0], sizes[1], sizes[2], sizes[3]};
  }
  void parse(std::string_view field, std::string_view text,
             std::array<std::int64_t, 2>& into) const {
    parse_row(field, text, field == "padding" ? 0 : 1, into);
  }
  // As many numbers, with an x between them.
  template <std::size_t n>
  void parse_row(std::string_view field, std::string_view text, std::int64_t least,
                 std::array<std::int64_t, n>& into) const {
    if (std::ranges::count(text, 'x') + 1 != std::ptrdiff_t{n})
      refuse(field,
             cat(quoted(text), "; allowed: ", n, " numbers, as in ", n == 2 ? "" : "8x3x", "2x2"));
    for (std::int64_t& value : into) {
      const std::size_t end = std::min(text.find('x'), text.size());
      value = number(field, text.substr(0, end), least, AlgorithmChoices::kMostSize);
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }
  template <typename Enum>
  requires(std::is_enum_v<Enum>) void parse(std::string_view field, std::string_view text,
                                            Enum& into) const {
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

  [[noreturn]] void refuse_line() const {
    refuse("line", cat(quoted(line_), "; allowed: ", Words<MatmulSpec>::key, ": ..., ",
                       Words<ConvCall>::key, ": ..., or end: ", kEnd));
  }
  [[noreturn]] void refuse(std::string_view what, const std::string& why) const {
    fail_input(cat(where_, ":", number_, " ", what), why);
  }

  std::string_view rest_, line_, key_, value_;
  const std::string& where_;
  int number_ = 0;  // of the line
};

}  // namespace

ConvCall::ConvCall(const Conv2dSpec& spec, ConvPass of_pass) : pass(of_pass) {
  const auto& [of_x, of_w, stride_of, padding_of, dilation_of, of_groups, has_bias, does,
               arithmetic, type, x_layout, training, needs_dx, deterministic, algorithms] = spec;
  static_cast<void>(x_layout);
  static_cast<void>(training);
  static_cast<void>(needs_dx);
  static_cast<void>(algorithms);
  x = of_x;
  w = of_w;
  stride = std::to_array(stride_of);
  padding = std::to_array(padding_of);
  dilation = std::to_array(dilation_of);
  groups = of_groups;
  if (pass == ConvPass::forward) {
    bias = has_bias;
    activation = does;
  }
  precision = arithmetic;
  stored = type;
  fast = !deterministic;
}

namespace {

template <typename Spec>
std::string text(const Spec& spec) {
  const Spec plain;
  std::vector<std::string> words;
  const auto add = [&](std::string_view name, const auto& value, const auto& by_default) {
    if (value == by_default && name != "pass") return;
    if constexpr (std::is_same_v<decltype(value), const bool&>) {
      words.emplace_back(name);
    } else {
      words.push_back(cat(name, '=', value_text(value)));
    }
  };
  for_fields(add, spec, plain);
  return join(words, " ");
}

template <typename Value>
bool less(const Value& a, const Value& b) {
  return a < b;
}
bool less(const Shape& a, const Shape& b) {
  return std::ranges::lexicographical_compare(a, b);
}

template <typename Spec>
bool before(const Spec& a, const Spec& b) {
  int order = 0;
  for_fields(
      [&](std::string_view, const auto& of_a, const auto& of_b) {
        if (order == 0) order = less(of_a, of_b) ? -1 : less(of_b, of_a) ? 1 : 0;
      },
      a, b);
  return order < 0;
}

template <typename Choices, typename Spec>
int chosen(const Choices& choices, const Spec& spec) {
  const auto found = choices.find(spec);
  return found == choices.end() ? 0 : found->second;
}

template <typename Choices, typename Spec>
void put(Choices& choices, const Spec& spec, int algorithm) {
  choices.erase(spec);
  if (algorithm != 0) choices.emplace(spec, algorithm);
}

std::string text_without_comments(const AlgorithmChoices& choices) {
  std::string all =
      cat("version: ", AlgorithmChoices::kVersion, "\nmade_on: ", choices.made_on, "\n");
  const auto add = [&](const auto& chosen) {
    for (const auto& [spec, algorithm] : chosen) {
      all += cat(Words<std::remove_cvref_t<decltype(spec)>>::key, ": ", text(spec),
                 " algorithm=", algorithm, "\n");
    }
  };
  add(choices.products());
  add(choices.convolutions());
  return all + cat("end: ", kEnd, "\n");
}

}  // namespace

std::string text_of(const MatmulSpec& product) {
  return text(product);
}

std::string text_of(const ConvCall& call) {
  return text(call);
}

bool AlgorithmOrder::operator()(const MatmulSpec& a, const MatmulSpec& b) const {
  return before(a, b);
}

bool AlgorithmOrder::operator()(const ConvCall& a, const ConvCall& b) const {
  return before(a, b);
}

int AlgorithmChoices::algorithm(const MatmulSpec& product) const {
  return chosen(products_, product);
}

int AlgorithmChoices::algorithm(const ConvCall& call) const {
  return chosen(convolutions_, call);
}

void AlgorithmChoices::choose(const MatmulSpec& product, int algorithm) {
  put(products_, product, algorithm);
}

void AlgorithmChoices::choose(const ConvCall& call, int algorithm) {
  put(convolutions_, call, algorithm);
}

std::uint64_t AlgorithmChoices::digest() const {
  const std::string text = text_without_comments(*this);
  return xxh64(text.data(), text.size());
}

AlgorithmChoices parse_algorithm_choices(std::string_view text, const std::string& where) {
  return Reader(text, where).read();
}

std::string print_algorithm_choices(const AlgorithmChoices& choices) {
  return cat(
      "# Ways of products and convolutions that are quicker than a device's first; written by\n"
      "# peal bench algorithms --tune, read by jobs whose train.algorithms names this file.\n",
      text_without_comments(choices));
}

AlgorithmChoices read_algorithm_choices(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail_input(path.string(), "is no file");
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error || bytes > kMostBytes)
    fail_input(path.string(), bytes, " bytes; a table of algorithms has at most ", kMostBytes);
  return parse_algorithm_choices(read_file(path), path.string());
}

}  // namespace peal
