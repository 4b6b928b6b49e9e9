#include "core/data/byte_pairs.h"

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/random.h"
#include "core/data/text_words.h"

namespace peal {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kLongestKept = 64;     // bytes of a word whose ids are kept
constexpr std::size_t kMostKept = 1u << 16;  // words

// A symbol is a byte (0 to 255) or what merge number n makes (256 + n).
std::uint64_t pair_key(std::uint32_t left, std::uint32_t right) {
  return std::uint64_t{left} << 32 | right;
}

struct MixedKey {
  std::size_t operator()(std::uint64_t key) const { return mix64(key); }
};

// What two symbols side by side become, if anything.
class MergeTable {
 public:
  void add(std::uint32_t left, std::uint32_t right, std::uint32_t symbol) {
    symbols_.emplace(pair_key(left, right), symbol);
  }
  std::uint32_t find(std::uint32_t left, std::uint32_t right) const {
    const auto found = symbols_.find(pair_key(left, right));
    return found == symbols_.end() ? kNone : found->second;
  }

 private:
  std::unordered_map<std::uint64_t, std::uint32_t, MixedKey> symbols_;  // order decides nothing
};

// Merges the symbols of one word: always the pair whose merge stands first in the file, of equal
// ones the leftmost. That a merge comes after those that make its parts makes this the same as
// GPT-2's way, which merges all equal pairs before it looks for the next.
// Cost: n log n for a word of n bytes.
class WordMerger {
 public:
  // Leaves the symbols in order in `symbols`.
  void run(std::string_view word, const MergeTable& merges, std::vector<std::uint32_t>& symbols) {
    links_.clear();
    heap_.clear();
    for (std::size_t i = 0; i < word.size(); ++i) {
      links_.push_back({static_cast<std::uint8_t>(word[i]), i - 1, i + 1});
    }
    for (std::size_t i = 0; i + 1 < word.size(); ++i) push(i, merges);
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const Candidate next = heap_.back();
      heap_.pop_back();
      merge(next, merges);
    }
    symbols.clear();
    for (std::size_t i = 0; i < links_.size(); i = links_[i].next) {
      symbols.push_back(links_[i].symbol);
    }
  }

 private:
  struct Link {
    std::uint32_t symbol;  // kNone: became part of the one before
    std::size_t previous, next;
  };
  struct Candidate {
    std::uint32_t symbol;  // what the pair becomes; smaller ones are merged first
    std::size_t left;
    auto operator<=>(const Candidate&) const = default;
  };

  void push(std::size_t left, const MergeTable& merges) {
    const std::uint32_t symbol = merges.find(links_[left].symbol, links_[links_[left].next].symbol);
    if (symbol == kNone) return;
    heap_.push_back({symbol, left});
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  // A candidate is out of date when one of its symbols has changed since.
  void merge(const Candidate& candidate, const MergeTable& merges) {
    Link& left = links_[candidate.left];
    if (left.symbol == kNone || left.next == links_.size()) return;
    Link& right = links_[left.next];
    if (merges.find(left.symbol, right.symbol) != candidate.symbol) return;
    left.symbol = candidate.symbol;
    right.symbol = kNone;
    left.next = right.next;
    if (left.next < links_.size()) {
      links_[left.next].previous = candidate.left;
      push(candidate.left, merges);
    }
    if (candidate.left > 0) push(left.previous, merges);
  }

  std::vector<Link> links_;
  std::vector<Candidate> heap_;
};

class BytePairs final : public Tokenizer {
 public:
  BytePairs(std::vector<std::string> tokens, const std::vector<Merge>& merges,
            const std::string& encoder, const std::string& merges_file)
      : name_(encoder), tokens_(std::move(tokens)) {
    std::unordered_map<std::string_view, std::int32_t> ids;
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      ids.emplace(tokens_[id], static_cast<std::int32_t>(id));
    }
    add_symbols(ids, merges, merges_file);
    check_all_made(merges_file);
    if (const auto found = ids.find(kEndOfText); found != ids.end()) end_ = found->second;
  }

  const std::string& name() const override { return name_; }
  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(tokens_.size()); }
  std::optional<std::int32_t> end_of_text() const override { return end_; }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) override {
    words_.split(text, [&](std::string_view word) { encode_word(word, ids); });
  }

 protected:
  std::string_view bytes_of(std::size_t id) const override { return tokens_[id]; }

 private:
  using Ids = std::unordered_map<std::string_view, std::int32_t>;
  struct Kept {
    std::uint32_t begin, end;  // in kept_ids_
  };
  struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };

  // Symbols are numbered as they are made, which gives the order of merging.
  void add_symbols(const Ids& ids, const std::vector<Merge>& merges,
                   const std::string& merges_file) {
    std::unordered_map<std::string, std::uint32_t> symbols;
    const auto add = [&](std::string text, const auto& what) {
      const auto found = ids.find(text);
      if (found == ids.end()) {
        fail_input(name_, "has no token for ", what, "; it and ", merges_file,
                   " belong to different vocabularies, or it was cut short");
      }
      symbols.emplace(std::move(text), static_cast<std::uint32_t>(symbol_ids_.size()));
      symbol_ids_.push_back(found->second);
    };
    for (int byte = 0; byte < 256; ++byte) {
      add(std::string(1, static_cast<char>(byte)), cat("byte ", byte));
    }
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const auto& [left, right] = merges[i];
      const std::uint32_t from = symbols.at(left), to = symbols.at(right);
      merges_.add(from, to, static_cast<std::uint32_t>(symbol_ids_.size()));
      add(left + right, cat("what merge ", i + 1, " makes"));
    }
  }

  void check_all_made(const std::string& merges_file) const {
    std::vector<bool> made(tokens_.size());
    for (const std::int32_t id : symbol_ids_) made[static_cast<std::size_t>(id)] = true;
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      const std::string& token = tokens_[id];
      if (made[id] || (token.starts_with("<|") && token.ends_with("|>"))) continue;
      fail_input(merges_file, "makes nothing of token ", id, " of ", name_,
                 "; the two belong to different vocabularies, or it was cut short");
    }
  }

  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) {
    if (const auto found = kept_.find(word); found != kept_.end()) {
      ids.insert(ids.end(), kept_ids_.begin() + found->second.begin,
                 kept_ids_.begin() + found->second.end);
      return;
    }
    merger_.run(word, merges_, symbols_);
    const std::size_t first = ids.size();
    for (const std::uint32_t symbol : symbols_) ids.push_back(symbol_ids_[symbol]);
    if (word.size() > kLongestKept) return;
    if (kept_.size() == kMostKept) {
      kept_.clear();
      kept_ids_.clear();
    }
    const auto begin = static_cast<std::uint32_t>(kept_ids_.size());
    kept_ids_.insert(kept_ids_.end(), ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
    kept_.emplace(word, Kept{begin, static_cast<std::uint32_t>(kept_ids_.size())});
  }

  std::string name_;
  std::vector<std::string> tokens_;       // by id
  std::vector<std::int32_t> symbol_ids_;  // by symbol
  MergeTable merges_;
  std::optional<std::int32_t> end_;

  TextWords words_;
  WordMerger merger_;
  std::vector<std::uint32_t> symbols_;
  std::unordered_map<std::string, Kept, TextHash, std::equal_to<>> kept_;  // words seen before
  std::vector<std::int32_t> kept_ids_;
};

}  // namespace

std::unique_ptr<Tokenizer> byte_pair_tokenizer(std::vector<std::string> tokens,
                                               const std::vector<Merge>& merges,
                                               const std::string& encoder,
                                               const std::string& merges_file) {
  return std::make_unique<BytePairs>(std::move(tokens), merges, encoder, merges_file);
}

std::unique_ptr<Tokenizer> gpt2_tokenizer(const std::filesystem::path& encoder,
                                          const std::filesystem::path& merges) {
  std::vector<std::string> tokens = parse_encoder(read_file(encoder), encoder.string());
  const std::vector<Merge> list = parse_merges(read_file(merges), merges.string());
  return byte_pair_tokenizer(std::move(tokens), list, encoder.string(), merges.string());
}

}  // namespace peal
