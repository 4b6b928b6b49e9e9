#include "comm/facts.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/base/error.h"

namespace peal {

void append_text(std::string& out, std::string_view text) {
  const std::uint64_t size = text.size();
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  out += text;
}

std::string take_text(std::string_view& in) {
  std::uint64_t size = 0;
  if (in.size() >= sizeof size) std::memcpy(&size, in.data(), sizeof size);
  in.remove_prefix(std::min(in.size(), sizeof size));
  std::string text(in.substr(0, size));
  in.remove_prefix(text.size());
  return text;
}

std::string pack_facts(const std::vector<Fact>& facts) {
  std::string out;
  for (const Fact& fact : facts) {
    append_text(out, fact.name);
    append_text(out, fact.value);
  }
  return out;
}

namespace {

std::vector<Fact> unpack(std::string_view in) {
  std::vector<Fact> facts;
  while (!in.empty()) {
    Fact fact;
    fact.name = take_text(in);
    fact.value = take_text(in);
    facts.push_back(std::move(fact));
  }
  return facts;
}

using Values = std::vector<std::optional<std::string>>;  // of one fact, by rank

Values values_of(const std::string& name, const std::vector<std::vector<Fact>>& ranks) {
  Values values;
  for (const auto& facts : ranks) {
    const auto found = std::find_if(facts.begin(), facts.end(),
                                    [&](const Fact& fact) { return fact.name == name; });
    values.push_back(found == facts.end() ? std::nullopt : std::optional(found->value));
  }
  return values;
}

// The lowest rank with the most common value; of equally common ones, the lowest rank's.
std::size_t majority_rank(const Values& values) {
  std::size_t best = 0;
  std::ptrdiff_t most = 0;
  for (std::size_t r = 0; r < values.size(); ++r) {
    const auto count = std::count(values.begin(), values.end(), values[r]);
    if (count > most) {
      most = count;
      best = r;
    }
  }
  return best;
}

// The text around the first place where it differs from `other`.
std::string excerpt(const std::optional<std::string>& text,
                    const std::optional<std::string>& other) {
  constexpr std::size_t kBefore = 20, kLength = 120;
  if (!text) return "nothing";
  if (text->size() <= kLength) return cat("\"", *text, "\"");
  const std::string_view b = other ? std::string_view(*other) : std::string_view();
  const auto differ = std::mismatch(text->begin(), text->end(), b.begin(), b.end()).first;
  const auto at = static_cast<std::size_t>(differ - text->begin());
  const std::size_t begin = at > kBefore ? at - kBefore : 0;
  return cat(begin > 0 ? "\"..." : "\"", text->substr(begin, kLength),
             begin + kLength < text->size() ? "...\"" : "\"");
}

void compare(const std::vector<std::string>& ranks, const std::string& name, const Values& values) {
  const std::size_t common = majority_rank(values);
  for (std::size_t r = 0; r < values.size(); ++r) {
    if (values[r] == values[common]) continue;
    throw Error(
        ErrorKind::numeric, ranks[r],
        cat(name, " is ", excerpt(values[r], values[common]), " but ", ranks[common], " has ",
            excerpt(values[common], values[r]), "; it must be the same on every rank"));
  }
}

}  // namespace

void compare_facts(const std::vector<std::string>& rank_names,
                   const std::vector<std::string>& packed) {
  std::vector<std::vector<Fact>> ranks;
  for (const std::string& text : packed) ranks.push_back(unpack(text));
  for (const auto& brought : ranks) {
    for (const Fact& fact : brought) compare(rank_names, fact.name, values_of(fact.name, ranks));
  }
}

}  // namespace peal
