// Records of a language model: windows of T + 1 tokens of a text, i32. The first T are what a model
// sees, the last T what it is to say. The label of such a record is the largest of its tokens, so
// that shards tell which vocabulary they need without being read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/tokenizer.h"

namespace peal {

struct TokenWindows {
  std::int64_t length = 0;    // T
  std::int64_t stride = 0;    // from the start of one record to that of the next; 0: T
  double begin = 0, end = 1;  // the part of the text: all its files' bytes behind one another, cut
                              // before the character in which a cut would lie
};

// Plain or gzip files (file_patterns.h), one behind another, with the tokenizer's end of text,
// where it has one, between two. All tokens are kept in memory, 4 bytes each; inflated files only
// until then.
// What is left behind the last whole window is in no record. Throws Error(input) that names a file,
// or the first of them where the part is too short for a window.
std::unique_ptr<Dataset> open_tokens(const std::vector<std::string>& patterns, Tokenizer& tokenizer,
                                     const TokenWindows& windows);

// Of all characters of the files. The same for every part of them.
std::unique_ptr<Tokenizer> open_character_tokenizer(const std::vector<std::string>& patterns);

bool holds_tokens(const Dataset& dataset);

// Every token of every record lies below `vocabulary`. Reads labels. Throws Error(input) that names
// the first record that has another.
void check_tokens(const Dataset& dataset, std::int64_t vocabulary);

// Writes T tokens to each of `x` and `labels`. Throws Error(input) that names the record when a
// token is not in [0, vocabulary).
void read_tokens(const Dataset& dataset, std::int64_t record, std::int64_t vocabulary,
                 std::int32_t* x, std::int32_t* labels);

}  // namespace peal
