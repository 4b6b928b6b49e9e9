// The table that drives the three-way check of every op. To add an op: a row in op_rows.cpp and one
// of the same name in tests/golden/make_op_golden.py, which also chooses the inputs.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "core/graph/plan.h"
#include "tests/graph/reference.h"

namespace peal {

struct OpRow {
  std::string name;
  std::function<Value(const std::vector<Value>&)> op;
  reference::Function reference;
};

inline std::ostream& operator<<(std::ostream& out, const OpRow& row) {
  return out << row.name;
}

// The pass in which rows run; dropout's masks depend on it.
inline constexpr PassKey kRowPass{.seed = 7, .step = 3, .virtual_rank = 2};

const std::vector<OpRow>& op_rows();

}  // namespace peal
