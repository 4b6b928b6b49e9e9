#include <algorithm>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/random.h"
#include "core/device/buffer.h"
#include "core/graph/gradient_flow.h"
#include "core/graph/graph_impl.h"
#include "core/graph/plan.h"

namespace peal {
namespace {

using Kind = Graph::ValueInfo::Kind;

// Parameters in the order in which backward finishes them: a parameter is final once its first
// recorded consumer has run backward, and backward runs in the reverse order of recording.
std::vector<int> finishing_order(const Graph& graph) {
  const Graph::Impl& impl = graph.impl();
  const GradientFlow flow(graph);
  std::vector<int> order;
  std::vector<bool> seen(impl.values.size());
  std::vector<std::vector<int>> groups;  // of first uses, one a node, in the order of its inputs
  for (const Graph::Node& node : impl.nodes) {
    groups.emplace_back();
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const int root = impl.root(node.inputs[i]);
      const auto index = static_cast<std::size_t>(root);
      if (impl.values[index].kind != Kind::parameter || seen[index]) continue;
      if (!flow.needs_grad(node, static_cast<int>(i))) continue;
      seen[index] = true;
      groups.back().push_back(root);
    }
  }
  for (auto group = groups.rbegin(); group != groups.rend(); ++group)
    order.insert(order.end(), group->begin(), group->end());
  for (std::size_t v = 0; v < impl.values.size(); ++v)
    if (impl.values[v].kind == Kind::parameter && impl.values[v].root == static_cast<int>(v) &&
        !seen[v])
      order.push_back(static_cast<int>(v));
  return order;
}

ArenaEntry reserve(Arena& arena, const std::string& name, const Shape& shape) {
  const auto bytes = static_cast<std::size_t>(shape.numel()) * sizeof(float);
  return {name, shape, arena.reserve(bytes)};
}

}  // namespace

ParameterTable make_parameter_table(const Graph& graph) {
  const Graph::Impl& impl = graph.impl();
  ParameterTable table;
  Arena gradients, states;
  for (const Graph::Impl::Slot& slot : impl.slots)
    table.slots.push_back(
        reserve(gradients, slot.name, impl.values[static_cast<std::size_t>(slot.value)].shape));
  table.slots_end = gradients.size();
  for (const int id : finishing_order(graph)) {
    const Graph::ValueInfo& info = impl.values[static_cast<std::size_t>(id)];
    table.parameters.push_back(reserve(gradients, info.name, info.shape));
    table.initializers.push_back(info.start);
  }
  table.gradient_bytes = gradients.size();
  for (std::size_t v = 0; v < impl.values.size(); ++v) {
    const Graph::ValueInfo& info = impl.values[v];
    if (info.kind != Kind::state || info.root != static_cast<int>(v)) continue;
    table.states.push_back(reserve(states, info.name, info.shape));
    table.state_starts.push_back(info.start.value);
  }
  table.state_bytes = states.size();
  return table;
}

std::uint64_t ParameterTable::hash() const {
  Hasher hasher;
  const auto number = [&](std::uint64_t value) { hasher.update(&value, sizeof(value)); };
  for (const auto* entries : {&slots, &parameters, &states}) {
    number(entries->size());
    for (const ArenaEntry& entry : *entries) {
      number(entry.name.size());
      hasher.update(entry.name);
      number(static_cast<std::uint64_t>(entry.shape.rank()));
      for (const std::int64_t dim : entry.shape) number(static_cast<std::uint64_t>(dim));
      number(entry.offset);
    }
  }
  return hasher.digest();
}

const ArenaEntry& ParameterTable::slot(const std::string& name) const {
  std::vector<std::string> names;
  for (const ArenaEntry& entry : slots) {
    if (entry.name == name) return entry;
    names.push_back(entry.name);
  }
  fail_internal("slot \"" + name + "\"", "no such slot; there are: ", join(names));
}

void initialize(const ParameterTable& table, std::uint64_t seed, std::byte* parameters,
                std::byte* states) {
  for (std::size_t p = 0; p < table.parameters.size(); ++p) {
    const ArenaEntry& entry = table.parameters[p];
    const Initializer& start = table.initializers[p];
    const Random random({.seed = seed, .site = xxh64(entry.name.data(), entry.name.size())});
    auto* values = reinterpret_cast<float*>(parameters + entry.offset);
    const auto count = static_cast<std::uint64_t>(entry.shape.numel());
    for (std::uint64_t i = 0; i < count; ++i) {
      switch (start.kind) {
        case Initializer::Kind::constant:
          values[i] = start.value;
          break;
        case Initializer::Kind::uniform:
          values[i] = start.value * (2 * random.uniform(i) - 1);
          break;
        case Initializer::Kind::normal:
          values[i] = static_cast<float>(start.value * random.normal(i));
          break;
      }
    }
  }
  for (std::size_t i = 0; i < table.states.size(); ++i) {
    auto* values = reinterpret_cast<float*>(states + table.states[i].offset);
    std::fill_n(values, table.states[i].shape.numel(), table.state_starts[i]);
  }
}

}  // namespace peal
