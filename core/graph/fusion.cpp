#include "core/graph/fusion.h"

#include <algorithm>
#include <optional>
#include <span>

#include "core/graph/fused_ops.h"
#include "core/graph/graph_impl.h"

namespace peal {
namespace {

class Fusion {
 public:
  Fusion(const Graph& graph, const GradientFlow& flow, Kernels& kernels, bool training)
      : graph_(graph.impl()), flow_(flow), kernels_(kernels), training_(training) {
    readers_.resize(graph_.values.size());
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n)
      for (const int input : graph_.nodes[n].inputs) add_reader(input, static_cast<int>(n));
    for (const auto& [name, value] : graph_.outputs) add_reader(value, kOutside);
    for (const Graph::Impl::Slot& slot : graph_.slots) add_reader(slot.value, kOutside);
  }

  // The nodes that `first` leads, itself included: at most conv2d, relu, max_pool2d.
  std::vector<int> chain(int first) const {
    std::vector<int> nodes = {first};
    const std::string& op = node(first).op;
    if (op != "conv2d" && op != "dense") return nodes;
    const int relu = only_reader(first, "relu");
    if (relu < 0) return nodes;
    nodes.push_back(relu);
    const int pool = op == "conv2d" ? only_reader(relu, "max_pool2d") : -1;
    if (pool >= 0) nodes.push_back(pool);
    return nodes;
  }

  // batch_norm and what follows it: relu, or add and relu where what is added is there before. The
  // step has then the inputs of a node of its own.
  std::optional<PlanStep> merge_batch_norm(int n, std::vector<bool>& merged) const {
    if (node(n).op != "batch_norm") return {};
    const int add = only_reader(n, "add", /*input=*/-1);
    const int relu = only_reader(add < 0 ? n : add, "relu");
    if (relu < 0) return {};
    const auto place = static_cast<std::size_t>(n);
    PlanStep step{"batch_norm", place, &graph_.nodes[place], node(n).outputs, {}, nullptr};
    BatchNormForm form{std::any_cast<float>(node(n).traits.attributes), Activation::relu, add >= 0};
    if (add >= 0) {
      const std::vector<int>& terms = node(add).inputs;
      const int other = terms[terms[0] == node(n).outputs[0] ? 1 : 0];
      if (!is_there(other, n) || shape(other) != shape(node(n).outputs[0])) return {};
      auto merged_node = std::make_shared<Graph::Node>(node(n));
      merged_node->inputs.push_back(other);
      merged_node->outputs[0] = node(relu).outputs[0];
      step.owned = merged_node;
      step.node = merged_node.get();
      step.op += "+add";
      merged[static_cast<std::size_t>(add)] = true;
    }
    merged[static_cast<std::size_t>(relu)] = true;
    step.op += "+relu";
    step.outputs[0] = node(relu).outputs[0];
    step.compile = compile_batch_norm(form);
    return step;
  }

  // affine, with gelu_tanh and a second affine behind it or without, and an add of what is there
  // before, of its shape; all in one block. Before the add may be a dropout that passes through.
  std::optional<PlanStep> merge_affine(int n, std::vector<bool>& merged) const {
    if (node(n).op != "affine") return {};
    std::vector<int> members = perceptron(n);
    const bool two = members.size() > 1;
    auto whole = std::make_shared<Graph::Node>(node(n));
    if (two) {
      const Graph::Node& second = node(members.back());
      whole->inputs.insert(whole->inputs.end(), second.inputs.begin() + 1, second.inputs.end());
    }
    const int other = take_add(members, n);
    if (members.size() == 1) return {};
    if (other >= 0) whole->inputs.push_back(other);
    whole->outputs = node(members.back()).outputs;
    PlanStep step{"affine",       static_cast<std::size_t>(n), whole.get(),
                  whole->outputs, compile_affine_add,          whole};
    if (two) step.compile = compile_perceptron(/*adds=*/other >= 0);
    for (const int member : std::span(members).subspan(1)) {
      merged[static_cast<std::size_t>(member)] = true;
      step.op += "+" + node(member).op;
    }
    return step;
  }

  // How many nodes of the chain became one, and how to compile them.
  std::pair<std::size_t, CompileOp> merge(const std::vector<int>& chain) const {
    const Graph::Node& first = node(chain[0]);
    if (chain.size() == 3)
      if (auto kernel = conv_relu_pool(first, node(chain[2])))
        return {3, compile_conv_relu_pool(std::move(kernel))};
    if (chain.size() >= 2 && first.op == "dense") return {2, compile_dense(Activation::relu)};
    if (chain.size() >= 2) return {2, compile_conv2d(conv_options(first), Activation::relu)};
    return {1, first.compile};
  }

 private:
  static constexpr int kOutside = -1;

  const Graph::Node& node(int n) const { return graph_.nodes[static_cast<std::size_t>(n)]; }
  const Shape& shape(int value) const {
    return graph_.values[static_cast<std::size_t>(value)].shape;
  }
  static const Conv2dOptions& conv_options(const Graph::Node& conv) {
    return std::any_cast<const Conv2dOptions&>(conv.traits.attributes);
  }

  void add_reader(int value, int reader) {
    readers_[static_cast<std::size_t>(graph_.root(value))].push_back(reader);
  }

  // The node that alone reads the result of node n, under its own shape, if it is an `op` that has
  // it as that input (-1: any).
  int only_reader(int n, const std::string& op, int input = 0) const {
    const int value = node(n).outputs[0];
    const auto& readers = readers_[static_cast<std::size_t>(value)];
    if (readers.size() != 1 || readers[0] == kOutside) return -1;
    const std::vector<int>& inputs = node(readers[0]).inputs;
    const bool reads = input < 0 ? std::find(inputs.begin(), inputs.end(), value) != inputs.end()
                                 : inputs[static_cast<std::size_t>(input)] == value;
    return node(readers[0]).op == op && reads ? readers[0] : -1;
  }

  bool in_block_of(int member, int n) const {
    return member >= 0 && node(member).block == node(n).block;
  }

  // Node n, an affine, and the gelu_tanh and the affine that follow it, if they do.
  std::vector<int> perceptron(int n) const {
    const int gelu = only_reader(n, "gelu_tanh");
    const int second = gelu < 0 ? -1 : only_reader(gelu, "affine");
    if (!in_block_of(gelu, n) || !in_block_of(second, n)) return {n};
    for (const int input : {node(second).inputs[1], node(second).inputs[2]})
      if (!is_there(input, n)) return {n};
    return {n, gelu, second};
  }

  // Appends to the members the add that follows them, and a dropout before it, if it may be one
  // with them; returns the value that is added, or -1.
  int take_add(std::vector<int>& members, int n) const {
    const int dropout = training_ ? -1 : only_reader(members.back(), "dropout");
    const int last = in_block_of(dropout, n) ? dropout : members.back();
    const int add = only_reader(last, "add", /*input=*/-1);
    if (!in_block_of(add, n)) return -1;
    const std::vector<int>& terms = node(add).inputs;
    const int other = terms[terms[0] == node(last).outputs[0] ? 1 : 0];
    if (!is_there(other, n) || shape(other) != shape(node(last).outputs[0])) return -1;
    if (last == dropout) members.push_back(dropout);
    members.push_back(add);
    return other;
  }

  // Whether a value is made before node n runs.
  bool is_there(int value, int n) const {
    const int root = graph_.root(value);
    for (int later = n; later < static_cast<int>(graph_.nodes.size()); ++later) {
      const std::vector<int>& made = node(later).outputs;
      if (std::find(made.begin(), made.end(), root) != made.end()) return false;
    }
    return true;
  }

  std::shared_ptr<ConvReluPool> conv_relu_pool(const Graph::Node& conv,
                                               const Graph::Node& pool) const {
    Conv2dSpec conv_spec = make_spec(shape(conv.inputs[0]), shape(conv.inputs[1]),
                                     conv.inputs.size() == 3, conv_options(conv));
    conv_spec.activation = Activation::relu;
    Pool2dSpec pool_spec = make_spec(PoolKind::max, shape(pool.inputs[0]),
                                     std::any_cast<const PoolOptions&>(pool.traits.attributes));
    conv_spec.training = pool_spec.training = training_ && flow_.needs_backward(conv);
    conv_spec.needs_dx = training_ && flow_.needs_grad(conv, 0);
    return kernels_.make_conv_relu_pool(conv_spec, pool_spec);
  }

  const Graph::Impl& graph_;
  const GradientFlow& flow_;
  Kernels& kernels_;
  bool training_;
  std::vector<std::vector<int>> readers_;  // nodes that read a root value
};

}  // namespace

std::vector<PlanStep> make_steps(const Graph& graph, const GradientFlow& flow, Kernels& kernels,
                                 bool training, bool fuse) {
  const Fusion fusion(graph, flow, kernels, training);
  const std::vector<Graph::Node>& nodes = graph.impl().nodes;
  std::vector<bool> merged(nodes.size());
  std::vector<PlanStep> steps;
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    if (merged[n]) continue;
    if (fuse) {
      if (auto norm = fusion.merge_batch_norm(static_cast<int>(n), merged)) {
        steps.push_back(std::move(*norm));
        continue;
      }
      if (auto affine = fusion.merge_affine(static_cast<int>(n), merged)) {
        steps.push_back(std::move(*affine));
        continue;
      }
    }
    PlanStep step{nodes[n].op, n, &nodes[n], nodes[n].outputs, nodes[n].compile, nullptr};
    if (fuse) {
      const std::vector<int> chain = fusion.chain(static_cast<int>(n));
      const auto [count, compile] = fusion.merge(chain);
      step.compile = compile;
      for (std::size_t i = 1; i < count; ++i) {
        const auto member = static_cast<std::size_t>(chain[i]);
        merged[member] = true;
        step.op += "+" + nodes[member].op;
        step.outputs = nodes[member].outputs;
      }
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace peal
