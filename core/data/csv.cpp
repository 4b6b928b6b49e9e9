#include "core/data/csv.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/text.h"
#include "core/data/gzip.h"
#include "core/data/records.h"

namespace peal {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 16;
constexpr std::size_t kLongestRow = std::size_t{64} << 20;

// Cuts the text into rows. A newline inside quotes belongs to its field: a row ends at the first
// newline with an even number of quotes before it.
class Rows {
 public:
  Rows(ReadBytes read, std::string where) : read_(std::move(read)), where_(std::move(where)) {}

  // The next row without its line end; valid until the next call.
  bool next(std::string_view& row) {
    line_ += lines_;
    lines_ = 0;
    const std::optional<std::size_t> end = find_end();
    if (!end) return false;
    row = std::string_view(buffer_).substr(begin_, *end - begin_);
    begin_ = std::min(*end + 1, filled_);
    if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
    if (const void* nul = std::memchr(row.data(), 0, row.size())) {
      fail_input(place(), "byte ", static_cast<const char*>(nul) - row.data() + 1,
                 " of the row is NUL: this is no text file (UTF-8 or ASCII is needed)");
    }
    return true;
  }

  std::string place() const { return cat(where_, ":", line_); }  // of the row's first line
  bool quoted() const { return quoted_; }                        // any quote in the row?

 private:
  std::optional<std::size_t> find_end() {
    std::size_t scanned = begin_;
    bool inside = false;
    quoted_ = false;
    for (;;) {
      const char* text = buffer_.data();
      while (scanned < filled_) {
        const void* hit = std::memchr(text + scanned, '\n', filled_ - scanned);
        const std::size_t stop =
            hit ? static_cast<std::size_t>(static_cast<const char*>(hit) - text) : filled_;
        const auto quotes = std::count(text + scanned, text + stop, '"');
        quoted_ |= quotes > 0;
        inside ^= quotes % 2 == 1;
        scanned = stop;
        if (hit == nullptr) break;
        ++lines_;
        if (!inside) return stop;
        ++scanned;
      }
      const std::size_t done = scanned - begin_;
      if (!fill()) break;
      scanned = begin_ + done;
    }
    if (begin_ == filled_) return std::nullopt;
    if (inside) fail_input(place(), "a quote (\") is opened and never closed");
    ++lines_;
    return filled_;
  }

  bool fill() {
    const std::size_t rest = filled_ - begin_;
    if (rest > kLongestRow) {
      fail_input(place(), "the row is longer than ", human_bytes(double(kLongestRow)),
                 "; a quote that is never closed, or no CSV file");
    }
    if (begin_ > 0 && rest > 0) std::memmove(buffer_.data(), buffer_.data() + begin_, rest);
    begin_ = 0;
    if (buffer_.size() < 2 * rest + kReadBytes) buffer_.resize(2 * rest + kReadBytes);
    const std::size_t n = read_(buffer_.data() + rest, buffer_.size() - rest);
    filled_ = rest + n;
    return n > 0;
  }

  ReadBytes read_;
  std::string where_;
  std::string buffer_;
  std::size_t begin_ = 0, filled_ = 0;  // the part of buffer_ that is not yet cut
  std::int64_t line_ = 1, lines_ = 0;   // of the row, and how many it spans
  bool quoted_ = false;
};

// Cuts a row into fields. Unquoted text is handed out in place; quoted text is copied only when it
// holds doubled quotes.
class Fields {
 public:
  Fields(std::string_view row, char delimiter, bool quoted, const Rows& rows)
      : rest_(row), delimiter_(delimiter), quoted_(quoted), rows_(rows) {}

  bool next(std::string_view& field) {
    if (ended_) return false;
    if (quoted_ && !rest_.empty() && rest_.front() == '"') return next_quoted(field);
    const std::size_t end = rest_.find(delimiter_);
    field = rest_.substr(0, end);
    if (quoted_ && field.find('"') != std::string_view::npos) {
      fail_input(rows_.place(), "field ", shown(field),
                 " holds a quote but does not begin with one (RFC 4180)");
    }
    advance(end);
    return true;
  }

 private:
  bool next_quoted(std::string_view& field) {
    std::size_t i = 1;
    bool doubled = false;
    for (; i < rest_.size(); ++i) {
      if (rest_[i] != '"') continue;
      if (i + 1 >= rest_.size() || rest_[i + 1] != '"') break;
      doubled = true;
      ++i;
    }
    if (i >= rest_.size()) fail_input(rows_.place(), "a quote (\") is opened and never closed");
    field = rest_.substr(1, i - 1);
    if (doubled) field = undouble(field);
    if (i + 1 < rest_.size() && rest_[i + 1] != delimiter_) {
      fail_input(rows_.place(), "quoted field ", shown(field), " is followed by ",
                 shown(rest_.substr(i + 1, 1)), "; allowed are a delimiter or the end of the row");
    }
    advance(i + 1 < rest_.size() ? i + 1 : std::string_view::npos);
    return true;
  }

  std::string_view undouble(std::string_view field) {
    scratch_.clear();
    for (std::size_t i = 0; i < field.size(); ++i) {
      scratch_ += field[i];
      if (field[i] == '"') ++i;
    }
    return scratch_;
  }

  void advance(std::size_t end) {
    ended_ = end == std::string_view::npos;
    if (!ended_) rest_.remove_prefix(end + 1);
  }

  std::string_view rest_;
  char delimiter_;
  bool quoted_;
  bool ended_ = false;
  const Rows& rows_;
  std::string scratch_;
};

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// A finite f32. A number too small for one becomes the nearest, which may be 0.
std::optional<float> parse_number(std::string_view text) {
  text = trim(text);
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  const char* end = text.data() + text.size();
  float value = 0;
  const auto [stop, code] = std::from_chars(text.data(), end, value);
  if (stop != end || text.empty()) return std::nullopt;
  if (code == std::errc::result_out_of_range) {
    double wide = 0;
    if (std::from_chars(text.data(), end, wide).ec != std::errc() || std::abs(wide) > 1) {
      return std::nullopt;
    }
    return static_cast<float>(wide);
  }
  if (code != std::errc() || !std::isfinite(value)) return std::nullopt;
  return value;
}

class Parser {
 public:
  Parser(std::span<const std::byte> file, const CsvOptions& options, const std::string& where)
      : rows_(byte_reader(file, where), where), options_(options), where_(where) {}

  CsvTable parse() {
    std::string_view row;
    if (!rows_.next(row)) fail_input(where_, "is empty; a CSV file was expected");
    if (row.starts_with("\xEF\xBB\xBF")) row.remove_prefix(3);  // UTF-8's byte order mark
    begin(row);
    if (!options_.header) take(row);
    std::optional<std::string> empty_line;  // allowed at the end of the file alone
    while (rows_.next(row)) {
      if (row.empty()) {
        if (!empty_line) empty_line = rows_.place();
        continue;
      }
      if (empty_line) fail_input(*empty_line, "the line is empty, and rows follow");
      take(row);
    }
    if (table_.labels.empty()) fail_input(where_, "holds a header and no records");
    return std::move(table_);
  }

 private:
  void begin(std::string_view row) {
    Fields fields(row, options_.delimiter, rows_.quoted(), rows_);
    std::string_view field;
    while (fields.next(field)) {
      names_.emplace_back(options_.header ? trim(field) : std::string_view());
    }
    label_ = find_label();
    if (names_.size() < 2) {
      fail_input(rows_.place(), "1 column, found with delimiter ",
                 shown(std::string_view(&options_.delimiter, 1)),
                 "; at least one feature and the label are needed");
    }
    table_.features = static_cast<std::int64_t>(names_.size()) - 1;
  }

  std::size_t find_label() const {
    const std::string& wanted = options_.label_column;
    if (options_.header) {
      const auto first = std::find(names_.begin(), names_.end(), wanted);
      if (first != names_.end()) {
        if (std::find(first + 1, names_.end(), wanted) != names_.end()) {
          fail_input(rows_.place(), "two columns are called ", shown(wanted),
                     "; name the label column by its number");
        }
        return static_cast<std::size_t>(first - names_.begin());
      }
    }
    const auto count = static_cast<std::int64_t>(names_.size());
    std::int64_t number = 0;
    const char* end = wanted.data() + wanted.size();
    const auto [stop, code] = std::from_chars(wanted.data(), end, number);
    const bool is_number = !wanted.empty() && code == std::errc() && stop == end;
    if (is_number && number >= -count && number < count) {
      return static_cast<std::size_t>(number < 0 ? number + count : number);
    }
    fail_input(rows_.place(), "no label column ", shown(wanted), "; ", allowed_columns());
  }

  std::string allowed_columns() const {
    const std::string numbers = cat("numbers from -", names_.size(), " to ", names_.size() - 1);
    if (!options_.header) return cat("without a header line allowed are ", numbers);
    constexpr std::size_t kMost = 10;
    std::vector<std::string> list;
    for (std::size_t i = 0; i < std::min(kMost, names_.size()); ++i) {
      list.push_back(shown(names_[i]));
    }
    if (names_.size() > kMost) {
      list.push_back(cat("... (", names_.size(), " columns, the last ", shown(names_.back()), ")"));
    }
    return cat("columns are ", join(list), "; allowed are these and ", numbers);
  }

  void take(std::string_view row) {
    Fields fields(row, options_.delimiter, rows_.quoted(), rows_);
    std::string_view field;
    std::size_t column = 0;
    for (; fields.next(field); ++column) {
      if (column >= names_.size()) continue;  // counted for the message
      const std::optional<float> value = parse_number(field);
      if (!value) fail_number(column, field);
      (column == label_ ? table_.labels : table_.values).push_back(*value);
    }
    if (column == names_.size()) return;
    fail_input(rows_.place(), column, " columns; the first row has ", names_.size());
  }

  [[noreturn]] void fail_number(std::size_t column, std::string_view field) const {
    const std::string name = options_.header ? cat(" (", shown(names_[column]), ")") : "";
    fail_input(rows_.place(), "column ", column, name, " holds ", shown(field),
               "; allowed are finite numbers that fit in f32");
  }

  Rows rows_;
  const CsvOptions& options_;
  const std::string& where_;
  std::vector<std::string> names_;  // empty names without a header
  std::size_t label_ = 0;
  CsvTable table_;
};

}  // namespace

CsvTable parse_csv(std::span<const std::byte> file, const CsvOptions& options,
                   const std::string& where) {
  if (std::strchr("\"\r\n", options.delimiter) != nullptr) {  // finds NUL too
    fail_input(where, "delimiter must be one character other than a quote or a line end");
  }
  return Parser(file, options, where).parse();
}

std::unique_ptr<Dataset> open_csv(const std::filesystem::path& path, const CsvOptions& options) {
  const MappedFile map(path);
  CsvTable table = parse_csv({map.data(), map.size()}, options, path.string());
  auto owner = std::make_shared<const std::vector<float>>(std::move(table.values));
  return array_dataset({path.string(), Shape{table.features}, DType::f32,
                        reinterpret_cast<const std::byte*>(owner->data()), std::move(table.labels),
                        owner});
}

}  // namespace peal
