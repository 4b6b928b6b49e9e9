// Process groups of every backend: the ranks agree who belongs together, and each backend then
// makes the communicator.
#include "comm/group.h"

#include <algorithm>

#include "comm/queue.h"

namespace peal {
namespace {

struct Wish {
  std::int64_t colour = 0, key = 0, id = 0;
};

// 1 all-gather of 24 bytes a rank.
std::vector<Wish> gather_wishes(Communicator& comm, std::string_view name, Wish mine) {
  constexpr std::int64_t kFields = sizeof(Wish) / sizeof(std::int64_t);
  std::vector<Wish> all(static_cast<std::size_t>(comm.world_size()));
  Stream s;
  comm.wait(s, comm.all_gather(s, name, {&mine, {kFields}, DType::i64},
                               {all.data(), {kFields * comm.world_size()}, DType::i64}));
  return all;
}

Group group_of(const std::vector<Wish>& wishes, int rank) {
  Group group;
  const std::int64_t colour = wishes[static_cast<std::size_t>(rank)].colour;
  for (std::size_t r = 0; r < wishes.size(); ++r) {
    group.id = std::max(group.id, wishes[r].id);
    if (colour >= 0 && wishes[r].colour == colour) group.members.push_back(static_cast<int>(r));
  }
  std::stable_sort(group.members.begin(), group.members.end(), [&](int a, int b) {
    return wishes[static_cast<std::size_t>(a)].key < wishes[static_cast<std::size_t>(b)].key;
  });
  const auto mine = std::find(group.members.begin(), group.members.end(), rank);
  if (mine != group.members.end()) group.rank = static_cast<int>(mine - group.members.begin());
  return group;
}

}  // namespace

std::unique_ptr<Communicator> QueuedCommunicator::split(int colour, int key) {
  return split_as("split", colour, key);
}

std::unique_ptr<Communicator> QueuedCommunicator::make_group(std::span<const int> ranks) {
  std::string list;
  int colour = kNoGroup, key = 0;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || ranks[i] >= world_size()) {
      fail_input("make_group", "rank ", ranks[i], " is not in 0..", world_size() - 1);
    }
    if (std::find(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(i), ranks[i]) !=
        ranks.begin() + static_cast<std::ptrdiff_t>(i)) {
      fail_input("make_group", "rank ", ranks[i], " is listed twice");
    }
    list += cat(i == 0 ? "" : ",", ranks[i]);
    if (ranks[i] != rank()) continue;
    colour = 0;
    key = static_cast<int>(i);
  }
  if (ranks.empty()) fail_input("make_group", "no ranks; at least 1 is needed");
  return split_as(cat("group of ", list), colour, key);
}

std::unique_ptr<Communicator> QueuedCommunicator::split_as(std::string_view name, int colour,
                                                           int key) {
  if (colour < kNoGroup) fail_input("split", "colour ", colour, "; 0 or more, or kNoGroup");
  const std::int64_t next = place_.groups->load() + 1;
  const Group group = group_of(gather_wishes(host_side(), name, {colour, key, next}), rank());
  place_.groups->store(group.id);
  return make_group_communicator(group);
}

QueuedCommunicator::Place QueuedCommunicator::place_in(const Group& group,
                                                       const std::vector<int>& hosts) const {
  Place place;
  place.rank = group.rank;
  place.local_size = 0;
  const int host = hosts[static_cast<std::size_t>(rank())];
  for (int r = 0; r < group.size(); ++r) {
    const auto member = static_cast<std::size_t>(group.members[static_cast<std::size_t>(r)]);
    place.names.push_back(place_.names[member]);
    place.numbers.push_back(place_.numbers.empty() ? static_cast<int>(member)
                                                   : place_.numbers[member]);
    if (hosts[member] != host) continue;
    if (r < group.rank) ++place.local_rank;
    ++place.local_size;
  }
  place.backend = place_.backend;
  // The group's share of the cores: other groups work at the same time.
  place.cores.of_host = place_.cores.of_host * place.local_size / place_.local_size;
  place.cores.of_rank = place_.cores.of_rank;
  place.deadline = watch_.deadline.load(std::memory_order_relaxed);
  place.progress_thread = place_.progress_thread;
  place.groups = place_.groups;
  place.family = place_.family;
  place.warn = place_.warn;
  return place;
}

}  // namespace peal
