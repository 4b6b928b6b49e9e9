// The whole contract in one call, for communicators that are made over others.
#pragma once

#include <functional>
#include <string_view>

#include "tests/comm/contract_compression.h"
#include "tests/comm/group_contract.h"

namespace peal::contract {

// `passed` hears of each part.
inline void everything(
    Communicator& comm, const std::function<void(std::string_view part)>& passed = [](auto) {}) {
  for_every_dtype([&]<typename T>() {
    all_reduce<T>(comm);
    roots_and_blocks<T>(comm, Memory::own);
    all_reduce_groups<T>(comm, Memory::own);
    send_and_receive<T>(comm, Memory::own);
    passed(name_of(dtype_of<T>()));
  });
  half_sums_round_once<F16>(comm);
  half_sums_round_once<Bf16>(comm);
  roots_and_blocks<float>(comm, Memory::mixed);
  ragged_calls_in_flight(comm);
  calls_run_in_order(comm);
  polling_makes_progress(comm);
  passed("calls in flight");
  tree_is_invariant(comm, 12);
  tree_scatters(comm, 9);
  half_tree_is_invariant<F16>(comm, 9);
  half_tree_is_invariant<Bf16>(comm, 9);
  buckets_match(comm, Reduction::repeatable, 1);
  buckets_match(comm, Reduction::fast, 1);
  for (const int v : {8, 11}) buckets_match(comm, Reduction::rank_invariant, v);
  sharded_buckets_match(comm, Reduction::rank_invariant, 11);
  sharded_buckets_match(comm, Reduction::repeatable, 1);
  passed("trees and buckets");
}

// Of groups, what ranks that are threads can run.
inline void groups_of_threads(Communicator& comm) {
  split_orders_by_key(comm);
  ranks_may_stay_out(comm);
  a_list_makes_a_group(comm);
  groups_work_at_once(comm);
}

}  // namespace peal::contract
