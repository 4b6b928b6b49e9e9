// The files of a byte-level byte-pair vocabulary, in memory, and what is made of them. In both a
// byte is written as a character that can be seen: itself where it is one of Latin-1 other than a
// space, else U+0100, U+0101, ... in the order of the bytes.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/data/tokenizer.h"

namespace peal {

// encoder.json, {"token": id, ...} -> the bytes of each token, by id. Throws Error(input) at
// `where` for what is no such object, ids that are given twice, left out or beyond 2^24, tokens
// given twice, empty ones and those with a character that stands for no byte.
std::vector<std::string> parse_encoder(std::string_view json, const std::string& where);

// vocab.bpe, a merge a line, the strongest first: two tokens with a space between them; a first
// line that begins with #version is passed over. Throws Error(input) at `where`:line for a line
// that is none, or is cut short, and for a merge one of whose parts is no byte and made by no merge
// before, or that makes what another makes.
using Merge = std::pair<std::string, std::string>;
std::vector<Merge> parse_merges(std::string_view text, const std::string& where);

// Throws Error(input) when the two do not belong together: each byte and what each merge makes must
// be tokens, and each token one of these or special, <|...|>. One thread.
std::unique_ptr<Tokenizer> byte_pair_tokenizer(std::vector<std::string> tokens,
                                               const std::vector<Merge>& merges,
                                               const std::string& encoder,
                                               const std::string& merges_file);

}  // namespace peal
