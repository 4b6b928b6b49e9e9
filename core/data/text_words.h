// GPT-2's words: what byte pairs are formed within (PCRE2).
#pragma once

#include <functional>
#include <memory>
#include <string_view>

namespace peal {

// English contractions; runs of letters, of digits and of other characters, each with one space in
// front where there is one; white space, of which a space before a word goes with that. Letters,
// digits and white space are Unicode's. Nothing is left out. Bytes that are no UTF-8 are words of
// their own, as long as they stand side by side, and end what stands before them as the end of the
// text would. For one thread.
class TextWords {
 public:
  TextWords();
  ~TextWords();

  // Calls `word` with each, in order. Cost: linear in the text.
  void split(std::string_view text, const std::function<void(std::string_view)>& word);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
