// A graph with everything that it takes to run it: table, arenas, inputs, plan. They lie on the
// device that tests run on (tests/test_device.h); values go there and come back by copies that
// wait.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/graph/plan.h"
#include "tests/test_device.h"

namespace peal {

// Whether the device stores bf16. A CPU that does not tells why by its instructions.
inline bool stores_bf16() {
  const Device& device = test_device().device;
  const bool does = kernels(device).has_precision(Precision::bf16);
  if (device.kind == Device::Kind::cpu) {
    EXPECT_EQ(does, onednn_instructions().starts_with("avx512")) << onednn_instructions();
  }
  return does;
}

class Session {
 public:
  Session(const Graph& graph, bool training, const PlanOptions& options = {})
      : table_(make_parameter_table(graph)),
        parameters_(table_.gradient_bytes, device_),
        gradients_(table_.gradient_bytes, device_),
        states_(table_.state_bytes, device_),
        plan_(graph, table_, device_, training, checked(options)),
        stream_(device_) {
    std::vector<std::byte> parameters(parameters_.size()), states(states_.size());
    initialize(table_, /*seed=*/1, parameters.data(), states.data());
    write(parameters_, 0, parameters.data(), parameters.size());
    write(states_, 0, states.data(), states.size());
    spoil_gradients(0);
    plan_.bind(parameters_.data(), states_.data());
  }

  const ParameterTable& table() const { return table_; }
  Plan& plan() { return plan_; }
  Stream& stream() { return stream_; }
  // NaNs from a byte of the gradients' arena to its end: backward must write it all.
  void spoil_gradients(std::size_t from) {
    const std::vector<std::byte> nans(gradients_.size() - from, std::byte{0xff});
    write(gradients_, from, nans.data(), nans.size());
  }
  void copy_states(Session& other) {
    const auto states = from_device<std::byte>(other.stream_, other.states_.data(), states_.size());
    write(states_, 0, states.data(), states.size());
  }

  template <typename T>
  void set_input(const std::string& name, const Shape& shape, const std::vector<T>& values,
                 DType dtype = DType::f32) {
    Buffer& buffer = inputs_[name] = Buffer(values.size() * sizeof(T), device_);
    write(buffer, 0, values.data(), buffer.size());
    plan_.set_input(name, {buffer.data(), shape, dtype, device_});
  }

  void set_parameter(const std::string& name, const std::vector<float>& values) {
    write(parameters_, find(table_.parameters, name).offset, values.data(),
          values.size() * sizeof(float));
  }

  std::vector<float> gradient(const std::string& name) {
    return read(gradients_, find(table_.parameters, name));
  }
  std::vector<float> slot(const std::string& name) {
    return read(gradients_, find(table_.slots, name));
  }
  std::vector<float> state(const std::string& name) {
    return read(states_, find(table_.states, name));
  }
  std::vector<float> output(const std::string& name) {
    const Tensor tensor = plan_.output(name);
    return from_device<float>(stream_, tensor.data, static_cast<std::size_t>(tensor.numel()));
  }
  // Slots and gradients, bit by bit.
  std::vector<std::byte> gradient_bytes() {
    return from_device<std::byte>(stream_, gradients_.data(), gradients_.size());
  }

  void forward(const PassKey& key = {}, float loss_scale = 1) {
    plan_.forward(stream_, key, gradients_.data(), loss_scale);
  }
  void backward(const Plan::OnGradientReady& ready = {}) {
    plan_.backward(stream_, gradients_.data(), ready);
  }
  void apply_slots() { plan_.apply_slots(stream_, gradients_.data()); }

 private:
  static PlanOptions checked(PlanOptions options) {
    options.check_reads = !options.record;  // where calls are recorded nothing may allocate
    return options;
  }
  static const ArenaEntry& find(const std::vector<ArenaEntry>& entries, const std::string& name) {
    for (const ArenaEntry& entry : entries)
      if (entry.name == name) return entry;
    throw std::runtime_error("no tensor " + name);
  }
  std::vector<float> read(const Buffer& arena, const ArenaEntry& entry) {
    return from_device<float>(stream_, arena.data() + entry.offset,
                              static_cast<std::size_t>(entry.shape.numel()));
  }
  void write(const Buffer& arena, std::size_t offset, const void* values, std::size_t bytes) {
    to_device(stream_, arena.data() + offset, values, bytes);
  }

  const Device device_ = test_device().device;

  ParameterTable table_;
  Buffer parameters_, gradients_, states_;
  std::map<std::string, Buffer> inputs_;
  Plan plan_;
  Stream stream_;
};

}  // namespace peal
