// Start-up agreement between ranks.
#include <algorithm>
#include <cstring>
#include <optional>

#include "comm/communicator.h"
#include "core/base/checksum.h"
#include "core/base/error.h"

namespace peal {
namespace {

// What every rank brings, in rank order.
std::vector<std::string> gather_texts(Communicator& comm, std::string_view name,
                                      const std::string& mine) {
  const auto n = static_cast<std::size_t>(comm.world_size());
  Stream s;
  auto size = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> sizes(n);
  const Tensor one{&size, {1}, DType::i64};
  const Tensor all{sizes.data(), {static_cast<std::int64_t>(n)}, DType::i64};
  comm.wait(s, comm.all_gather(s, cat(name, " sizes"), one, all));

  const std::int64_t most = *std::max_element(sizes.begin(), sizes.end());
  const auto row = static_cast<std::size_t>(most);
  std::vector<char> padded(row), texts(n * row);
  std::copy(mine.begin(), mine.end(), padded.begin());
  const Tensor x{padded.data(), {most}, DType::u8};
  const Tensor y{texts.data(), {static_cast<std::int64_t>(n) * most}, DType::u8};
  comm.wait(s, comm.all_gather(s, name, x, y));

  std::vector<std::string> result;
  for (std::size_t r = 0; r < n; ++r) {
    result.emplace_back(texts.data() + r * row, static_cast<std::size_t>(sizes[r]));
  }
  return result;
}

bool same_everywhere(Communicator& comm, std::uint64_t hash) {
  std::int64_t mine = 0;
  std::memcpy(&mine, &hash, sizeof mine);
  std::vector<std::int64_t> all(static_cast<std::size_t>(comm.world_size()));
  Stream s;
  const Tensor x{&mine, {1}, DType::i64};
  const Tensor y{all.data(), {comm.world_size()}, DType::i64};
  comm.wait(s, comm.all_gather(s, "agreement", x, y));
  return std::all_of(all.begin(), all.end(), [&](std::int64_t h) { return h == all[0]; });
}

void append(std::string& out, const std::string& text) {
  const std::uint64_t size = text.size();
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  out += text;
}

std::string take(std::string_view& in) {
  std::uint64_t size = 0;
  std::memcpy(&size, in.data(), sizeof size);
  std::string text(in.substr(sizeof size, size));
  in.remove_prefix(sizeof size + size);
  return text;
}

std::string pack(const std::vector<Fact>& facts) {
  std::string out;
  for (const Fact& fact : facts) {
    append(out, fact.name);
    append(out, fact.value);
  }
  return out;
}

std::vector<Fact> unpack(std::string_view in) {
  std::vector<Fact> facts;
  while (!in.empty()) {
    Fact fact;
    fact.name = take(in);
    fact.value = take(in);
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

void compare(const Communicator& comm, const std::string& name, const Values& values) {
  const std::size_t common = majority_rank(values);
  for (std::size_t r = 0; r < values.size(); ++r) {
    if (values[r] == values[common]) continue;
    throw Error(ErrorKind::numeric, comm.rank_name(static_cast<int>(r)),
                cat(name, " is ", excerpt(values[r], values[common]), " but ",
                    comm.rank_name(static_cast<int>(common)), " has ",
                    excerpt(values[common], values[r]), "; it must be the same on every rank"));
  }
}

}  // namespace

void agree(Communicator& comm, const std::vector<Fact>& facts) {
  const std::string mine = pack(facts);
  if (same_everywhere(comm, xxh64(mine.data(), mine.size()))) return;
  std::vector<std::vector<Fact>> ranks;
  for (const std::string& text : gather_texts(comm, "facts", mine)) ranks.push_back(unpack(text));
  for (const auto& brought : ranks) {
    for (const Fact& fact : brought) compare(comm, fact.name, values_of(fact.name, ranks));
  }
  throw Error(ErrorKind::numeric, "start-up agreement",
              "ranks bring the same facts in different orders");
}

void agree_on_error(Communicator& comm, const Error* mine) {
  std::string packed;
  if (mine != nullptr) {
    append(packed, cat(static_cast<int>(mine->kind())));
    append(packed, mine->where());
    append(packed, mine->message());
  }
  const std::vector<std::string> all = gather_texts(comm, "errors", packed);
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    std::string_view in = all[r];
    const auto kind = static_cast<ErrorKind>(std::stoi(take(in)));
    const std::string where = take(in), message = take(in);
    const int rank = static_cast<int>(r);
    if (rank == comm.rank()) throw Error(kind, where, message);
    throw Error(kind, comm.rank_name(rank), cat(where, ": ", message));
  }
}

}  // namespace peal
