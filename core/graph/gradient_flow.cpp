#include "core/graph/gradient_flow.h"

#include <algorithm>

#include "core/graph/graph_impl.h"

namespace peal {
namespace {

bool is_constant(const Graph::Node& node, std::size_t input) {
  const auto& constants = node.traits.constants;
  return std::find(constants.begin(), constants.end(), static_cast<int>(input)) != constants.end();
}

}  // namespace

GradientFlow::GradientFlow(const Graph& graph) : graph_(graph.impl()) {
  const std::size_t count = graph_.values.size();
  std::vector<bool> depends(count), reaches(count);
  const auto root = [&](int value) { return static_cast<std::size_t>(graph_.root(value)); };
  for (std::size_t v = 0; v < count; ++v)
    depends[v] = graph_.values[v].kind == Graph::ValueInfo::Kind::parameter;
  for (const Graph::Node& node : graph_.nodes)
    for (std::size_t i = 0; i < node.inputs.size(); ++i)
      if (depends[root(node.inputs[i])] && !is_constant(node, i))
        for (const int output : node.outputs)
          depends[root(output)] = graph_.root_info(output).dtype == DType::f32;

  if (graph_.loss >= 0) reaches[root(graph_.loss)] = true;
  for (auto node = graph_.nodes.rbegin(); node != graph_.nodes.rend(); ++node) {
    const bool reached = std::any_of(node->outputs.begin(), node->outputs.end(),
                                     [&](int output) { return reaches[root(output)]; });
    if (!reached) continue;
    for (std::size_t i = 0; i < node->inputs.size(); ++i)
      if (!is_constant(*node, i)) reaches[root(node->inputs[i])] = true;
  }
  flows_.resize(count);
  for (std::size_t v = 0; v < count; ++v) flows_[v] = depends[v] && reaches[v];
}

bool GradientFlow::flows(int value) const {
  return flows_[static_cast<std::size_t>(graph_.root(value))];
}

bool GradientFlow::needs_grad(const Graph::Node& node, int i) const {
  const auto index = static_cast<std::size_t>(i);
  return needs_backward(node) && !is_constant(node, index) && flows(node.inputs[index]);
}

bool GradientFlow::needs_backward(const Graph::Node& node) const {
  return std::any_of(node.outputs.begin(), node.outputs.end(),
                     [&](int output) { return flows(output); });
}

}  // namespace peal
