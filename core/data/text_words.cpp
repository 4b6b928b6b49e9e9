#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/data/text_words.h"

#include <pcre2.h>

#include "core/base/error.h"
#include "core/data/utf8.h"

namespace peal {
namespace {

// White space is written out as Unicode's White_Space: PCRE2's \s has U+180E as well.
#define PEAL_SPACE                                                                \
  "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}" \
  "\\x{205F}\\x{3000}"
constexpr const char* kPattern =
    "'s|'t|'re|'ve|'m|'ll|'d"
    "| ?\\p{L}+"
    "| ?\\p{N}+"
    "| ?[^" PEAL_SPACE
    "\\p{L}\\p{N}]+"
    "|[" PEAL_SPACE "]+(?![^" PEAL_SPACE
    "])"
    "|[" PEAL_SPACE "]+";
#undef PEAL_SPACE

[[noreturn]] void fail_pattern(int code) {
  unsigned char text[256] = "";
  pcre2_get_error_message(code, text, sizeof text);
  fail_internal("words of text", "PCRE2 says: ", reinterpret_cast<const char*>(text));
}

}  // namespace

struct TextWords::Impl {
  Impl() {
    int error = 0;
    PCRE2_SIZE place = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &place, nullptr);
    if (code == nullptr) fail_pattern(error);
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, matching is only slower
    match = pcre2_match_data_create(1, nullptr);
    if (match == nullptr) fail_pattern(PCRE2_ERROR_NOMEMORY);
  }
  ~Impl() {
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }

  // `text` is UTF-8. Every character is in some alternative, so that each match begins where the
  // last one ended.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const {
    for (std::size_t at = 0; at < text.size();) {
      const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                    at, PCRE2_NO_UTF_CHECK, match, nullptr);
      if (found < 0) fail_pattern(found);
      const std::size_t end = pcre2_get_ovector_pointer(match)[1];
      word(text.substr(at, end - at));
      at = end;
    }
  }

  pcre2_code* code = nullptr;
  pcre2_match_data* match = nullptr;
};

TextWords::TextWords() : impl_(std::make_unique<Impl>()) {}
TextWords::~TextWords() = default;

void TextWords::split(std::string_view text, const std::function<void(std::string_view)>& word) {
  while (!text.empty()) {
    const std::size_t good = utf8_prefix(text);
    impl_->split(text.substr(0, good), word);
    text.remove_prefix(good);
    std::size_t bad = 0;
    while (bad < text.size() && utf8_character(text.substr(bad)).bytes == 0) ++bad;
    if (bad > 0) word(text.substr(0, bad));
    text.remove_prefix(bad);
  }
}

}  // namespace peal
