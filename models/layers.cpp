#include "models/layers.h"

namespace peal {

Value dense_layer(const std::string& name, Value x, std::int64_t outputs) {
  const std::int64_t inputs = x.shape()[1];
  const Initializer start = Initializer::fan_in(inputs);
  const Value weight = x.graph().parameter(name + ".weight", {outputs, inputs}, start);
  const Value bias = x.graph().parameter(name + ".bias", {outputs}, start);
  return dense(x, weight, bias);
}

Value conv2d_layer(const std::string& name, Value x, std::int64_t filters, std::int64_t kernel,
                   const Conv2dOptions& options) {
  const std::int64_t channels = x.shape()[1] / options.groups;
  const Initializer start = Initializer::fan_in(channels * kernel * kernel);
  const Value weight =
      x.graph().parameter(name + ".weight", {filters, channels, kernel, kernel}, start);
  const Value bias = x.graph().parameter(name + ".bias", {filters}, start);
  return conv2d(x, weight, bias, options);
}

Recurrence recurrent_layers(const std::string& name, Value x, std::int64_t hidden,
                            const RecurrentOptions& options) {
  RecurrentSpec spec;
  spec.cell = options.cell;
  spec.layers = options.layers;
  spec.bidirectional = options.bidirectional;
  spec.inputs = x.shape()[2];
  spec.hidden = hidden;
  constexpr const char* kNames[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"};
  std::vector<Value> weights;
  for (const Shape& shape : spec.weights()) {
    const std::size_t chain = weights.size() / 4;
    const auto directions = static_cast<std::size_t>(spec.directions());
    const std::string of =
        "_l" + std::to_string(chain / directions) + (chain % directions == 1 ? "_reverse" : "");
    weights.push_back(x.graph().parameter(name + "." + kNames[weights.size() % 4] + of, shape,
                                          Initializer::fan_in(hidden)));
  }
  return recurrent(x, weights, options);
}

Value batch_norm_layer(const std::string& name, Value x, Value record_weight, float gamma) {
  const Shape channels = {x.shape()[1]};
  const Value weight =
      x.graph().parameter(name + ".weight", channels, Initializer::constant(gamma));
  const Value bias = x.graph().parameter(name + ".bias", channels, Initializer::constant(0));
  return batch_norm(name, x, weight, bias, record_weight);
}

Value row_of(Value x, Value position) {
  const std::int64_t columns = x.shape()[2];
  return reshape(embedding(position, reshape(x, {0, columns})), {1, 1, columns});
}

bool counts_batches(const std::string& name) {
  return name.ends_with(".num_batches_tracked");
}

}  // namespace peal
