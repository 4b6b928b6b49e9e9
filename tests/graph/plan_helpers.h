// What tests of whole plans share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/graph/fusion.h"
#include "core/graph/ops.h"
#include "tests/graph/session.h"

namespace peal {

inline constexpr PassKey kPass{.seed = 3, .step = 5, .virtual_rank = 1};

inline Value total(Value x) {
  return reduce_sum(reshape(x, {1, 0}), {0, 1});
}

// Numbers without a pattern in [-1, 1).
inline std::vector<float> noise(std::int64_t count, std::uint64_t seed = 9) {
  const Random random({.seed = seed});
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i)
    values.push_back(2 * random.uniform(static_cast<std::uint64_t>(i)) - 1);
  return values;
}

inline void set_noise(Session& session, const std::string& input, const Shape& shape) {
  session.set_input(input, shape, noise(shape.numel()));
}

// The ops that became one: "affine+add conv2d+relu".
inline std::string merged_ops(const Graph& graph, bool training) {
  const GradientFlow flow(graph);
  std::string ops;
  for (const PlanStep& step : make_steps(graph, flow, kernels(kCpu), training, /*fuse=*/true))
    if (step.op.find('+') != std::string::npos) ops += (ops.empty() ? "" : " ") + step.op;
  return ops;
}

template <typename Function>
std::string message_of(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace peal
