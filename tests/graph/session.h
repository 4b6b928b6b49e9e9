// A graph with everything that it takes to run it: table, arenas, inputs, plan.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/graph/plan.h"

namespace peal {

class Session {
 public:
  Session(const Graph& graph, bool training, const PlanOptions& options = {})
      : table_(make_parameter_table(graph)),
        parameters_(table_.gradient_bytes),
        gradients_(table_.gradient_bytes),
        states_(table_.state_bytes),
        plan_(graph, table_, kCpu, training, options) {
    initialize(table_, /*seed=*/1, parameters_.data(), states_.data());
    // NaN: backward must write it all.
    std::fill_n(gradients_.data(), gradients_.size(), std::byte{0xff});
    plan_.bind(parameters_.data(), states_.data());
  }

  const ParameterTable& table() const { return table_; }
  Plan& plan() { return plan_; }
  std::byte* gradients() { return gradients_.data(); }
  std::byte* states() { return states_.data(); }

  template <typename T>
  void set_input(const std::string& name, const Shape& shape, const std::vector<T>& values,
                 DType dtype = DType::f32) {
    Buffer& buffer = inputs_[name] = Buffer(values.size() * sizeof(T));
    std::memcpy(buffer.data(), values.data(), buffer.size());
    plan_.set_input(name, {buffer.data(), shape, dtype});
  }

  void set_parameter(const std::string& name, const std::vector<float>& values) {
    std::memcpy(parameters_.data() + find(table_.parameters, name).offset, values.data(),
                values.size() * sizeof(float));
  }

  std::vector<float> gradient(const std::string& name) const {
    return read(gradients_, find(table_.parameters, name));
  }
  std::vector<float> slot(const std::string& name) const {
    return read(gradients_, find(table_.slots, name));
  }
  std::vector<float> state(const std::string& name) const {
    return read(states_, find(table_.states, name));
  }
  std::vector<float> output(const std::string& name) const {
    const Tensor tensor = plan_.output(name);
    return {tensor.as<float>(), tensor.as<float>() + tensor.numel()};
  }
  // Slots and gradients, bit by bit.
  std::vector<std::byte> gradient_bytes() const {
    return {gradients_.data(), gradients_.data() + gradients_.size()};
  }

  void forward(const PassKey& key = {}) { plan_.forward(stream_, key, gradients_.data()); }
  void backward(float loss_scale = 1, const Plan::OnGradientReady& ready = {}) {
    plan_.backward(stream_, loss_scale, gradients_.data(), ready);
  }
  void apply_slots() { plan_.apply_slots(stream_, gradients_.data()); }

 private:
  static const ArenaEntry& find(const std::vector<ArenaEntry>& entries, const std::string& name) {
    for (const ArenaEntry& entry : entries)
      if (entry.name == name) return entry;
    throw std::runtime_error("no tensor " + name);
  }
  static std::vector<float> read(const Buffer& arena, const ArenaEntry& entry) {
    const auto* data = reinterpret_cast<const float*>(arena.data() + entry.offset);
    return {data, data + entry.shape.numel()};
  }

  ParameterTable table_;
  Buffer parameters_, gradients_, states_;
  std::map<std::string, Buffer> inputs_;
  Plan plan_;
  Stream stream_;
};

}  // namespace peal
