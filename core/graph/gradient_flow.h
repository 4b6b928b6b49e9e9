// Autograd's question of principle: through which values does the gradient of the loss flow?
#pragma once

#include <vector>

#include "core/graph/graph.h"

namespace peal {

class GradientFlow {
 public:
  // No gradient flows anywhere when the graph has no loss.
  explicit GradientFlow(const Graph& graph);

  // Does `value` depend on a parameter, and the loss on `value`? Aliases answer for their root.
  bool flows(int value) const;
  // Is the gradient of input i of `node` wanted?
  bool needs_grad(const Graph::Node& node, int i) const;
  bool needs_backward(const Graph::Node& node) const;

 private:
  const Graph::Impl& graph_;
  std::vector<bool> flows_;  // by root
};

}  // namespace peal
