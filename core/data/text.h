// Text in memory, cut into records.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/file.h"
#include "core/data/record_source.h"

namespace peal {

// A file of text: plain (mapped) or gzip (inflated into memory, up to 4 GiB).
class TextFile {
 public:
  explicit TextFile(const std::filesystem::path& path);

  const std::string& name() const { return name_; }
  std::span<const std::byte> bytes() const;
  std::string_view text() const;

 private:
  std::string name_;
  MappedFile map_;
  std::vector<std::byte> inflated_;
  bool zipped_ = false;
};

struct TextPiece {
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;  // <= TextOptions::length
  float label = 0;
};

// 16 bytes of memory a record. Line ends are LF or CRLF. Throws Error(input) whose place is
// `where`:line for lines that are too long or have no label in front, and whose place is `where`
// for a text without records.
std::vector<TextPiece> parse_text(std::span<const std::byte> text, const TextOptions& options,
                                  const std::string& where);

}  // namespace peal
