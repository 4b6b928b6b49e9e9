// Start-up agreement between ranks.
#include <algorithm>
#include <cstring>

#include "comm/facts.h"
#include "core/base/checksum.h"
#include "core/base/error.h"

namespace peal {
namespace {

// What every rank brings, in rank order.
std::vector<std::string> gather_packed(Communicator& comm, std::string_view name,
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

}  // namespace

void agree(Communicator& comm, const std::vector<Fact>& facts) {
  const std::string mine = pack_facts(facts);
  if (same_everywhere(comm, xxh64(mine.data(), mine.size()))) return;
  std::vector<std::string> names;
  for (int r = 0; r < comm.world_size(); ++r) names.push_back(comm.rank_name(r));
  compare_facts(names, gather_packed(comm, "facts", mine));
  throw Error(ErrorKind::numeric, "start-up agreement",
              "ranks bring the same facts in different orders");
}

void agree_on_error(Communicator& comm, const Error* mine) {
  std::string packed;
  if (mine != nullptr) {
    append_text(packed, cat(static_cast<int>(mine->kind())));
    append_text(packed, mine->where());
    append_text(packed, mine->message());
  }
  const std::vector<std::string> all = gather_packed(comm, "errors", packed);
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    std::string_view in = all[r];
    const auto kind = static_cast<ErrorKind>(std::stoi(take_text(in)));
    const std::string where = take_text(in), message = take_text(in);
    const int rank = static_cast<int>(r);
    if (rank == comm.rank()) throw Error(kind, where, message);
    throw Error(kind, comm.rank_name(rank), cat(where, ": ", message));
  }
}

}  // namespace peal
