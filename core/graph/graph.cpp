#include "core/graph/graph.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/graph/graph_impl.h"

namespace peal {

const Shape& Value::shape() const {
  return graph_->impl().values[static_cast<std::size_t>(id_)].shape;
}

DType Value::dtype() const {
  return graph_->impl().values[static_cast<std::size_t>(id_)].dtype;
}

Initializer Initializer::constant(float value) {
  return {Kind::constant, value};
}

Initializer Initializer::uniform(float bound) {
  return {Kind::uniform, bound};
}

Initializer Initializer::normal(float deviation) {
  return {Kind::normal, deviation};
}

Initializer Initializer::fan_in(std::int64_t fan_in) {
  return uniform(static_cast<float>(1.0 / std::sqrt(static_cast<double>(fan_in))));
}

void Graph::Impl::claim(const std::string& kind, const std::string& name) {
  if (name.empty()) fail_input("graph", "a ", kind, " needs a name");
  if (!names.insert(kind + " " + name).second)
    fail_input("graph", kind, " \"", name, "\" was declared before; names must differ");
}

int Graph::Impl::add_value(ValueInfo info) {
  info.root = static_cast<int>(values.size());
  values.push_back(std::move(info));
  return values.back().root;
}

Graph::Graph() : impl_(std::make_unique<Impl>()) {}
Graph::~Graph() = default;

Value Graph::input(std::string name, const Shape& shape, DType dtype) {
  impl_->claim("input", name);
  return {this, impl_->add_value({ValueInfo::Kind::input, std::move(name), shape, dtype, 0, {}})};
}

Value Graph::parameter(std::string name, const Shape& shape, Initializer start) {
  impl_->claim("tensor", name);
  return {this, impl_->add_value(
                    {ValueInfo::Kind::parameter, std::move(name), shape, DType::f32, 0, start})};
}

Value Graph::state(std::string name, const Shape& shape, float start) {
  impl_->claim("tensor", name);
  return {this, impl_->add_value({ValueInfo::Kind::state, std::move(name), shape, DType::f32, 0,
                                  Initializer::constant(start)})};
}

std::vector<Value> Graph::add_op(std::string op, std::vector<Value> inputs,
                                 std::vector<std::pair<Shape, DType>> outputs, CompileOp compile,
                                 OpTraits traits) {
  Node node{std::move(op), {}, {}, std::move(compile), std::move(traits), impl_->block};
  for (const Value& value : inputs) {
    if (!value.valid()) fail_input(node.op, "got a Value that was never assigned");
    if (&value.graph() != this) fail_input(node.op, "got Values of two graphs");
    node.inputs.push_back(value.id());
  }
  std::vector<Value> results;
  for (const auto& [shape, dtype] : outputs) {
    node.outputs.push_back(impl_->add_value({ValueInfo::Kind::computed, {}, shape, dtype, 0, {}}));
    results.emplace_back(this, node.outputs.back());
  }
  impl_->nodes.push_back(std::move(node));
  return results;
}

Value Graph::add_alias(Value x, const Shape& shape) {
  ValueInfo info = impl_->values[static_cast<std::size_t>(x.id())];
  info.shape = shape;
  impl_->values.push_back(std::move(info));
  return {this, static_cast<int>(impl_->values.size()) - 1};
}

void Graph::add_slot(std::string name, Value value, CompileOp apply) {
  if (value.dtype() != DType::f32)
    fail_input("slot \"" + name + "\"", "wants f32, got ", name_of(value.dtype()));
  impl_->claim("slot", name);
  impl_->slots.push_back({std::move(name), value.id(), std::move(apply)});
}

Graph::Block::Block(Graph& graph) : graph_(graph) {
  if (graph.impl().block >= 0)
    fail_input("graph", "a block inside a block; blocks follow one another");
  graph.impl().block = graph.impl().blocks++;
}

Graph::Block::~Block() {
  graph_.impl().block = -1;
}

int Graph::blocks() const {
  return impl_->blocks;
}

void Graph::set_loss(Value loss) {
  if (loss.shape().numel() != 1) fail_input("loss", "wants one element, got shape ", loss.shape());
  if (impl_->loss >= 0) fail_input("loss", "was set before; a graph has one loss");
  add_slot("loss", loss);
  impl_->loss = loss.id();
  // The loss leads, whatever batch_norm put there while the model was recorded.
  std::rotate(impl_->slots.begin(), impl_->slots.end() - 1, impl_->slots.end());
}

void Graph::set_metric(std::string name, Value sum) {
  if (sum.shape().numel() != 1)
    fail_input("metric \"" + name + "\"", "wants one element, got shape ", sum.shape());
  add_slot(std::move(name), sum);
}

void Graph::set_output(std::string name, Value value) {
  impl_->claim("output", name);
  impl_->outputs.emplace_back(std::move(name), value.id());
}

}  // namespace peal
