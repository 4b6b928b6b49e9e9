// Which ranks of a communicator form a new one.
#pragma once

#include <cstdint>
#include <vector>

namespace peal {

struct Group {
  std::vector<int> members;  // ranks of the parent, in the order of the group
  int rank = -1;             // of this rank in the group; -1: it is in none
  std::int64_t id = 0;       // 1 or more; no two groups that share a rank have the same

  bool empty() const { return rank < 0; }
  int size() const { return static_cast<int>(members.size()); }
};

}  // namespace peal
