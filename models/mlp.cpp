#include "models/mlp.h"

#include <string>

#include "core/base/error.h"
#include "models/layers.h"

namespace peal {
namespace {

Value activate(MlpSpec::Activation kind, Value x) {
  switch (kind) {
    case MlpSpec::RELU:
      return relu(x);
    case MlpSpec::LEAKY_RELU:
      return leaky_relu(x);
    case MlpSpec::GELU:
      return gelu(x);
    case MlpSpec::SIGMOID:
      return sigmoid(x);
    case MlpSpec::TANH:
      return tanh(x);
  }
  fail_input("model.mlp.activation", "unknown value ", static_cast<int>(kind));
}

void set_results(const MlpSpec& spec, Graph& graph, Value logits, Value labels, Value weight) {
  switch (spec.loss()) {
    case MlpSpec::SOFTMAX:
      graph.set_loss(softmax_cross_entropy(logits, labels, weight));
      graph.set_metric("correct", count_correct(logits, labels, weight));
      break;
    case MlpSpec::BINARY:
      graph.set_loss(binary_cross_entropy(logits, labels, weight));
      graph.set_metric("correct", count_correct_binary(logits, labels, weight));
      break;
    case MlpSpec::SQUARED_ERROR:
      graph.set_loss(squared_error(logits, labels, weight));
      break;
  }
  graph.set_output("logits", logits);
}

}  // namespace

ModelInfo mlp_info(const MlpSpec& spec) {
  const bool softmax = spec.loss() == MlpSpec::SOFTMAX;
  if (softmax && spec.outputs() < 2)
    fail_input("model.mlp.outputs", spec.outputs(),
               " classes; loss SOFTMAX wants 2 or more (loss BINARY wants 1 output)");
  if (!softmax && spec.outputs() != 1)
    fail_input("model.mlp.outputs", spec.outputs(), " outputs; loss ",
               MlpSpec::Loss_Name(spec.loss()), " wants 1");
  ModelInfo info;
  info.record_shape = {spec.inputs()};
  info.classes = softmax ? spec.outputs() : 0;
  info.binary = spec.loss() == MlpSpec::BINARY;
  info.has_accuracy = softmax || info.binary;
  return info;
}

void build_mlp(const MlpSpec& spec, std::int64_t batch, Graph& graph) {
  const ModelInfo info = mlp_info(spec);
  Value y = graph.input("x", {batch, spec.inputs()});
  const Value labels = graph.input("labels", {batch}, info.classes > 0 ? DType::i32 : DType::f32);
  const Value weight = graph.input("weight", {batch});

  int layer = 1;
  for (const std::int64_t width : spec.hidden()) {
    const std::string number = std::to_string(layer++);
    y = dense_layer("dense" + number, y, width);
    if (spec.batch_norm()) y = batch_norm_layer("norm" + number, y, weight);
    y = activate(spec.activation(), y);
    if (spec.dropout() > 0) y = dropout(y, spec.dropout());
  }
  y = dense_layer("dense" + std::to_string(layer), y, spec.outputs());
  set_results(spec, graph, y, labels, weight);
}

}  // namespace peal
