#include "core/data/text.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/text.h"
#include "core/data/file_patterns.h"
#include "core/data/gzip.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLongestRecord = std::int64_t{1} << 30;
constexpr std::int32_t kLargestLabel = 1 << 24;  // exact in a float
constexpr std::uint64_t kMostInflated = std::uint64_t{4} << 30;

std::vector<TextPiece> cut_blocks(std::uint64_t bytes, std::uint64_t length) {
  std::vector<TextPiece> pieces;
  for (std::uint64_t at = 0; at < bytes; at += length) {
    pieces.push_back({at, static_cast<std::uint32_t>(std::min(length, bytes - at)), 0});
  }
  return pieces;
}

// "3 some text": returns the bytes that the label takes, with the separator.
std::size_t parse_label(std::string_view line, float& label, const std::string& place) {
  std::int32_t value = -1;
  const auto [end, code] = std::from_chars(line.data(), line.data() + line.size(), value);
  const auto digits = static_cast<std::size_t>(end - line.data());
  const bool separated =
      digits < line.size() && std::string_view(" \t,").find(line[digits]) != std::string_view::npos;
  if (code != std::errc() || value < 0 || value > kLargestLabel || !separated) {
    fail_input(place, shown(line), " does not begin with a label: a whole number from 0 to ",
               kLargestLabel, " and a space, tab or comma");
  }
  label = static_cast<float>(value);
  return digits + 1;
}

std::vector<TextPiece> cut_lines(std::string_view text, const TextOptions& options,
                                 const std::string& where) {
  std::vector<TextPiece> pieces;
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++number;
    TextPiece piece{begin, 0, 0};
    begin = end + 1;
    if (line.empty()) continue;
    if (options.label_first) {
      const std::size_t taken = parse_label(line, piece.label, cat(where, ":", number));
      line.remove_prefix(taken);
      piece.offset += taken;
    }
    if (line.size() > static_cast<std::size_t>(options.length)) {
      if (!options.cut_long) {
        fail_input(cat(where, ":", number), "a line of ", line.size(), " bytes; records have ",
                   options.length, ". Set cut_long_lines to keep what fits");
      }
      line = line.substr(0, static_cast<std::size_t>(options.length));
    }
    piece.bytes = static_cast<std::uint32_t>(line.size());
    pieces.push_back(piece);
  }
  return pieces;
}

std::vector<std::byte> inflate_text(std::span<const std::byte> file, const std::string& where) {
  const ReadBytes read = byte_reader(file, where);
  std::vector<std::byte> text;
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  for (std::size_t n = kPiece; n == kPiece;) {
    if (text.size() > kMostInflated) {
      fail_input(where, "inflates to more than ", kMostInflated,
                 " bytes; a text of that size must be there plain");
    }
    const std::size_t done = text.size();
    text.resize(done + kPiece);
    n = read(text.data() + done, kPiece);
    text.resize(done + n);
  }
  return text;
}

class Text final : public RecordSource {
 public:
  Text(std::vector<fs::path> files, const TextOptions& options)
      : files_(std::move(files)), name_(files_[0].string()), shape_({options.length}) {
    std::int64_t first = 0;
    for (const fs::path& path : files_) {
      Part part{TextFile(path), {}, first};
      part.pieces = parse_text(part.file.bytes(), options, path.string());
      first += static_cast<std::int64_t>(part.pieces.size());
      parts_.push_back(std::move(part));
    }
    size_ = first;
  }

  std::int64_t size() const override { return size_; }
  const Shape& record_shape() const override { return shape_; }
  DType record_dtype() const override { return DType::u8; }
  const std::string& name() const override { return name_; }
  std::string record_name(std::int64_t index) const override {
    const Part& part = find(index);
    return cat(files_[static_cast<std::size_t>(&part - parts_.data())].string(), ": record ",
               index - part.first);
  }
  float label(std::int64_t index) const override { return piece(index).label; }
  void read(std::int64_t index, void* out) override {
    const TextPiece& from = piece(index);
    auto* bytes = static_cast<std::byte*>(out);
    std::memcpy(bytes, find(index).file.bytes().data() + from.offset, from.bytes);
    std::fill(bytes + from.bytes, bytes + record_bytes(), std::byte{0});
  }
  std::int64_t files() const override { return static_cast<std::int64_t>(files_.size()); }
  fs::path file(std::int64_t index) const override {
    return files_[static_cast<std::size_t>(index)];
  }

 private:
  struct Part {
    TextFile file;
    std::vector<TextPiece> pieces;
    std::int64_t first = 0;  // its first record
  };

  const Part& find(std::int64_t index) const {
    const auto after =
        std::upper_bound(parts_.begin(), parts_.end(), index,
                         [](std::int64_t i, const Part& part) { return i < part.first; });
    return *(after - 1);
  }
  const TextPiece& piece(std::int64_t index) const {
    const Part& part = find(index);
    return part.pieces[static_cast<std::size_t>(index - part.first)];
  }

  std::vector<fs::path> files_;
  std::string name_;
  Shape shape_;
  std::vector<Part> parts_;
  std::int64_t size_ = 0;
};

}  // namespace

TextFile::TextFile(const fs::path& path) : name_(path.string()), map_(path) {
  const std::span<const std::byte> file(map_.data(), map_.size());
  zipped_ = is_gzip(file);
  if (zipped_) inflated_ = inflate_text(file, name_);
}

std::span<const std::byte> TextFile::bytes() const {
  return zipped_ ? std::span<const std::byte>(inflated_) : std::span(map_.data(), map_.size());
}

std::string_view TextFile::text() const {
  return {reinterpret_cast<const char*>(bytes().data()), bytes().size()};
}

std::vector<TextPiece> parse_text(std::span<const std::byte> text, const TextOptions& options,
                                  const std::string& where) {
  if (options.length < 1 || options.length > kLongestRecord) {
    fail_input(where, "records of ", options.length, " bytes; allowed are 1 to ", kLongestRecord);
  }
  std::vector<TextPiece> pieces =
      options.lines
          ? cut_lines({reinterpret_cast<const char*>(text.data()), text.size()}, options, where)
          : cut_blocks(text.size(), static_cast<std::uint64_t>(options.length));
  if (pieces.empty()) fail_input(where, "holds no text; at least one record is needed");
  return pieces;
}

std::unique_ptr<RecordSource> open_text(const std::vector<std::string>& patterns,
                                        const TextOptions& options) {
  return std::make_unique<Text>(find_files(patterns, "text"), options);
}

}  // namespace peal
