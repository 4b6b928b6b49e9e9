// What process groups must do over every backend.
#pragma once

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>

#include "core/base/error.h"
#include "tests/comm/contract_blocks.h"

namespace peal::contract {

// The message of what `call` throws, which must be of this kind.
inline std::string error_of(ErrorKind kind, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    require(error.kind() == kind, "wrong kind: ", error.what());
    return error.what();
  }
  throw std::runtime_error("nothing was thrown");
}

inline void require_text(const std::string& text, const std::string& part) {
  require(text.find(part) != std::string::npos, "\"", text, "\" does not say \"", part, "\"");
}

// Colour: parity; key: backwards. So rank 0 of a group is the highest of its parity.
inline void split_orders_by_key(Communicator& comm) {
  const int n = comm.world_size(), r = comm.rank();
  const auto group = comm.split(r % 2, -r);
  require(group != nullptr, "no group");
  const int size = (n + (r % 2 == 0 ? 1 : 0)) / 2;
  require(group->world_size() == size, "size ", group->world_size(), ", not ", size);
  require(group->rank() == size - 1 - r / 2, "rank ", group->rank());
  const bool one_host = comm.local_size() == n;
  require(!one_host || (group->local_size() == size && group->local_rank() == group->rank()),
          "place in host");
  require(group->rank_name(group->rank()) == comm.rank_name(r), "name ",
          group->rank_name(group->rank()), " of ", comm.rank_name(r));
  require(group->backend() == comm.backend(), "backend");
  all_reduce<float>(*group);
  roots_and_blocks<float>(*group, Memory::mixed);
  send_and_receive<float>(*group, Memory::mixed);
  tree_is_invariant(*group, 6);
  buckets_match(*group, Reduction::rank_invariant, 8);
}

// Every rank but the last in one group; equal keys keep the order of ranks.
inline void ranks_may_stay_out(Communicator& comm) {
  const bool out = comm.rank() == comm.world_size() - 1;
  const auto group = comm.split(out ? Communicator::kNoGroup : 7, 0);
  require((group == nullptr) == out, "group on rank ", comm.rank());
  if (group) {
    require(group->rank() == comm.rank(), "rank ", group->rank());
    all_reduce<std::int32_t>(*group);
  }
  Stream s;
  comm.wait(s, comm.barrier(s, "together again"));
}

inline void a_list_makes_a_group(Communicator& comm) {
  const int n = comm.world_size();
  std::vector<int> list;
  for (int r = n - 1; r >= 0; r -= 2) list.push_back(r);
  const auto group = comm.make_group(list);
  const auto mine = std::find(list.begin(), list.end(), comm.rank());
  require((group == nullptr) == (mine == list.end()), "group on rank ", comm.rank());
  if (group) {
    require(group->rank() == mine - list.begin(), "rank ", group->rank());
    all_reduce<double>(*group);
  }
  require_text(error_of(ErrorKind::input,
                        [&] {
                          comm.make_group(std::vector{0, n});
                        }),
               cat("rank ", n, " is not in 0..", n - 1));
  require_text(error_of(ErrorKind::input,
                        [&] {
                          comm.make_group(std::vector{0, 0});
                        }),
               "rank 0 is listed twice");
  require_text(error_of(ErrorKind::input, [&] { comm.make_group({}); }), "no ranks");
  require_text(error_of(ErrorKind::input, [&] { comm.split(-2, 0); }), "colour -2");
}

// Calls of the world, of pairs and of a group inside a pair are in flight together, and ranks wait
// for them in different orders. The inner group outlives the one that it was split from.
inline void groups_work_at_once(Communicator& comm) {
  Stream s;
  auto pair = comm.split(comm.rank() / 2, comm.rank());
  const auto inner = pair->split(0, -pair->rank());
  for (int round = 0; round < 20; ++round) {
    std::vector<std::int64_t> world_sum(1009, comm.rank()), pair_sum(257, comm.rank()),
        inner_sum(3, comm.rank());
    std::vector<std::pair<Communicator*, Request>> calls{
        {&comm, comm.all_reduce(s, "world", view(world_sum), view(world_sum), ReduceOp::sum)},
        {inner.get(), inner->all_reduce(s, "in", view(inner_sum), view(inner_sum), ReduceOp::sum)}};
    if (pair) {
      calls.emplace_back(
          pair.get(), pair->all_reduce(s, "pair", view(pair_sum), view(pair_sum), ReduceOp::sum));
    }
    for (std::size_t k = 0; k < calls.size(); ++k) {
      const auto& [of, request] = calls[(k + static_cast<std::size_t>(comm.rank())) % calls.size()];
      of->wait(s, request);
    }
    const int n = comm.world_size(), low = comm.rank() / 2 * 2;
    const std::int64_t of_pair = low + (low + 1 < n ? low + 1 : 0);
    require(world_sum[1008] == n * (n - 1) / 2, "world sum ", world_sum[1008]);
    require(inner_sum[2] == of_pair, "inner sum ", inner_sum[2]);
    require(!pair || pair_sum[256] == of_pair, "pair sum ", pair_sum[256]);
    if (round == 10) pair.reset();
  }
}

inline void groups_leave_nothing_behind(Communicator& comm) {
  const auto open_files = [] {
    std::filesystem::directory_iterator files("/proc/self/fd");
    return std::distance(begin(files), end(files));
  };
  Stream s;
  comm.wait(s, comm.barrier(s, "before"));
  const auto before = open_files();
  for (int round = 0; round < 100; ++round) {
    const auto group = comm.split(round % 3 == comm.rank() % 3 ? 0 : 1, comm.rank());
    group->wait(s, group->barrier(s, "once"));
  }
  comm.wait(s, comm.barrier(s, "after"));
  const auto after = open_files();
  require(after == before, before, " files were open and now ", after);
}

// The world is waited in by those that are not in the group, and called by the others afterwards:
// all hear what ended the group, long before the deadline of 60 s.
inline void world_says(Communicator& comm, ErrorKind kind, const std::string& text) {
  Stream s;
  const auto begin = std::chrono::steady_clock::now();
  require_text(error_of(kind, [&] { comm.wait(s, comm.barrier(s, "world")); }), text);
  require(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10), "that took long");
}

// Messages of a group speak of the ranks that the job began with.
inline void late_member_is_named(Communicator& comm) {
  const int last = comm.world_size() - 1;
  const auto group = comm.make_group(std::vector{last, last - 1});
  const std::string text = cat("rank ", last, ": waited 0.5 s in all_reduce \"second\"; rank ",
                               last - 1, " last finished \"first\"");
  if (group) {
    Stream s;
    group->wait(s, group->barrier(s, "first"));
    group->set_deadline(comm.rank() == last ? 0.5 : 30);
    if (comm.rank() != last) world_says(comm, ErrorKind::peer, text);  // until the other gives up
    std::vector<float> x(1009);
    const auto second = [&] {
      group->wait(s, group->all_reduce(s, "second", view(x), view(x), ReduceOp::sum));
    };
    require_text(error_of(ErrorKind::peer, second), text);
  }
  world_says(comm, ErrorKind::peer, text);
}

// Rank 0 aborts the world while the others wait for it in a group, and in a group of that.
inline void an_abort_reaches_groups(Communicator& comm) {
  const auto all = comm.split(0, comm.rank());
  const auto inner = all->split(0, comm.rank());
  const std::string text = comm.rank_name(0) + ": shard 3: record 7 is cut short";
  Communicator& waits = comm.rank() % 2 == 0 ? *all : *inner;
  Stream s;
  if (comm.rank() == 0) {
    comm.abort("shard 3: record 7 is cut short", 2);
  } else {
    const auto call = [&] { waits.wait(s, waits.barrier(s, "group")); };
    require_text(error_of(ErrorKind::input, call), text);
  }
  world_says(comm, ErrorKind::input, text);
}

// The last rank aborts a group of one, inside a group that is gone: its own world hears it. Others
// may hear of it while they still wait for the end of the call before.
inline void an_abort_of_a_group_reaches_the_world(Communicator& comm) {
  const int last = comm.world_size() - 1;
  auto pair = comm.split(comm.rank() / 2, 0);
  const auto inner = pair->split(pair->rank(), 0);
  pair.reset();
  const std::string text = comm.rank_name(last) + ": the loss is nan";
  Stream s;
  const auto call = [&] {
    comm.wait(s, comm.barrier(s, "all have their groups"));
    if (comm.rank() == last) inner->abort("the loss is nan", 4);
    comm.wait(s, comm.barrier(s, "world"));
  };
  require_text(error_of(ErrorKind::numeric, call), text);
  require_text(error_of(ErrorKind::numeric, [&] { inner->wait(s, inner->barrier(s, "in")); }),
               text);
}

// An exception destroys the groups of rank 0 on its way to where it is told.
inline void a_leaving_rank_has_last_words(Communicator& comm) {
  const std::string text = comm.rank_name(0) + ": no more disk";
  try {
    const auto group = comm.split(0, comm.rank());
    Stream s;
    if (comm.rank() == 0) throw std::runtime_error("no more disk");
    require_text(error_of(ErrorKind::peer, [&] { group->wait(s, group->barrier(s, "in")); }), text);
  } catch (const std::runtime_error& error) {
    if (comm.rank() != 0 || std::string(error.what()) != "no more disk") throw;
    comm.abort(error.what(), 1);
  }
  world_says(comm, ErrorKind::peer, text);
}

inline void different_lists_are_told_apart(Communicator& comm) {
  const std::string text = error_of(ErrorKind::numeric, [&] {
    comm.make_group(comm.rank() == 0 ? std::vector{0, 1} : std::vector{1, 0});
  });
  require_text(text, "group of 0,1");
  require_text(text, "group of 1,0");
}

// A mismatch in one group ends the others and the world.
inline void a_mismatch_in_a_group_ends_all(Communicator& comm) {
  const bool member = comm.rank() < 2;
  const std::string text =
      "barrier \"this\" on " + comm.rank_name(0) + " but barrier \"that\" on " + comm.rank_name(1);
  std::unique_ptr<Communicator> two;
  try {
    two = comm.split(member ? 0 : 1, comm.rank());
  } catch (const Error& error) {  // the members were quicker, and this rank hears of it here
    if (member || error.kind() != ErrorKind::numeric) throw;
    require_text(error.what(), text);
    return world_says(comm, ErrorKind::numeric, text);
  }
  Stream s;
  if (member) {
    const auto call = [&] { two->wait(s, two->barrier(s, comm.rank() == 0 ? "this" : "that")); };
    require_text(error_of(ErrorKind::numeric, call), text);
  }
  world_says(comm, ErrorKind::numeric, text);
  require_text(error_of(ErrorKind::numeric, [&] { two->wait(s, two->barrier(s, "on")); }), text);
}

// All that a world of any size can run.
inline void groups(Communicator& comm) {
  split_orders_by_key(comm);
  ranks_may_stay_out(comm);
  a_list_makes_a_group(comm);
  groups_work_at_once(comm);
  groups_leave_nothing_behind(comm);
}

// Each needs a world of two ranks or more for itself, and leaves it broken.
struct FailingGroup {
  const char* name;
  void (*run)(Communicator& comm);
};
inline constexpr FailingGroup kFailingGroups[] = {
    {"LateMemberIsNamed", late_member_is_named},
    {"DifferentListsAreToldApart", different_lists_are_told_apart},
    {"AnAbortReachesGroups", an_abort_reaches_groups},
    {"AnAbortOfAGroupReachesTheWorld", an_abort_of_a_group_reaches_the_world},
    {"ALeavingRankHasLastWords", a_leaving_rank_has_last_words},
    {"AMismatchInAGroupEndsAll", a_mismatch_in_a_group_ends_all},
};

}  // namespace peal::contract
