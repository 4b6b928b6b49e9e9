// Process groups over ranks that are threads.
#include <gtest/gtest.h>

#include <tuple>

#include "tests/comm/group_contract.h"

namespace peal {
namespace {

class Groups : public ::testing::TestWithParam<int> {
 protected:
  static void run(const std::function<void(Communicator&)>& test) {
    run_local_ranks(GetParam(), [&](Communicator& comm) {
      comm.set_deadline(60);
      test(comm);
    });
  }
};

TEST_P(Groups, SplitOrdersByKey) {
  run(contract::split_orders_by_key);
}
TEST_P(Groups, RanksMayStayOut) {
  run(contract::ranks_may_stay_out);
}
TEST_P(Groups, AListMakesAGroup) {
  run(contract::a_list_makes_a_group);
}
TEST_P(Groups, WorkAtOnce) {
  run(contract::groups_work_at_once);
}
INSTANTIATE_TEST_SUITE_P(Ranks, Groups, ::testing::Values(1, 2, 3, 5));

using FailingCase = std::tuple<int, contract::FailingGroup>;
class FailingGroups : public ::testing::TestWithParam<FailingCase> {};

TEST_P(FailingGroups, EndAllRanksAlike) {
  const auto& [ranks, group] = GetParam();
  run_local_ranks(ranks, [&group = group](Communicator& comm) {
    comm.set_deadline(60);
    group.run(comm);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, FailingGroups,
                         ::testing::Combine(::testing::Values(2, 3, 5),
                                            ::testing::ValuesIn(contract::kFailingGroups)),
                         [](const auto& test) {
                           return cat(std::get<1>(test.param).name, std::get<0>(test.param));
                         });

}  // namespace
}  // namespace peal
