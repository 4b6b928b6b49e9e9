// Which ops a Plan compiles as one. Fusing changes neither the parameter table nor what is
// computed, only how many times the data travels through memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/graph/gradient_flow.h"
#include "core/graph/graph.h"
#include "core/kernels/kernels.h"

namespace peal {

// One op to compile: a node, or several nodes in a chain merged at the place of the first.
struct PlanStep {
  std::string op;
  std::uint64_t site = 0;             // number of the (first) node
  const Graph::Node* node = nullptr;  // whose inputs the step reads
  std::vector<int> outputs;           // values that the step makes
  CompileOp compile;
  std::shared_ptr<const Graph::Node> owned;  // `node`, where it was made by merging
};

// The graph's nodes in order; with `fuse`
//   conv2d + relu + max_pool2d  becomes the backend's ConvReluPool where it has one,
//   conv2d or dense + relu      becomes the kernel with its fused activation,
//   affine + add               becomes the product that adds a residual; in evaluation with a
//                              dropout between them,
//   batch_norm + relu and batch_norm + add + relu become batch_norm's kernel with both,
// each where nothing else reads what lies between.
std::vector<PlanStep> make_steps(const Graph& graph, const GradientFlow& flow, Kernels& kernels,
                                 bool training, bool fuse);

}  // namespace peal
