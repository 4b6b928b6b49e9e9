// Process groups over ranks that are threads.
#include <gtest/gtest.h>

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
TEST_P(Groups, LateMemberIsNamed) {
  if (GetParam() > 1) run(contract::late_member_is_named);
}
TEST_P(Groups, DifferentListsAreToldApart) {
  if (GetParam() > 1) run(contract::different_lists_are_told_apart);
}

INSTANTIATE_TEST_SUITE_P(Ranks, Groups, ::testing::Values(1, 2, 3, 5));

}  // namespace
}  // namespace peal
