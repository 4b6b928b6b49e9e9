#include "models/rnn.h"

#include <vector>

#include "core/base/error.h"
#include "models/layers.h"

namespace peal {
namespace {

RecurrentCell cell_of(RnnSpec::Cell cell) {
  switch (cell) {
    case RnnSpec::LSTM:
      return RecurrentCell::lstm;
    case RnnSpec::GRU:
      return RecurrentCell::gru;
    case RnnSpec::TANH:
      return RecurrentCell::rnn_tanh;
    case RnnSpec::RELU:
      return RecurrentCell::rnn_relu;
  }
  fail_input("model.rnn.cell", "unknown value ", static_cast<int>(cell));
}

Recurrence layers(const RnnSpec& spec, Value x) {
  RecurrentOptions options;
  options.cell = cell_of(spec.cell());
  options.layers = spec.layers();
  options.bidirectional = spec.bidirectional();
  options.batch_first = true;
  options.dropout = spec.dropout();
  return recurrent_layers("rnn", x, spec.hidden(), options);
}

// The last state of the last layer, of both directions side by side: (B, D*H).
Value last_state(const RnnSpec& spec, Value h) {
  const std::int64_t directions = spec.bidirectional() ? 2 : 1, chains = h.shape()[0];
  const Value top = slice(h, 0, chains - directions, chains);  // (D, B, H)
  return flatten(transpose(top, {1, 0, 2}));
}

void build_classifier(const RnnSpec& spec, std::int64_t batch, Graph& graph) {
  const Value x = graph.input("x", {batch, spec.steps(), spec.inputs()});
  const Value labels = graph.input("labels", {batch}, DType::i32);
  const Value weight = graph.input("weight", {batch});

  Value y = last_state(spec, layers(spec, x).h);
  if (spec.dropout() > 0) y = dropout(y, spec.dropout());
  const Value logits = dense_layer("dense", y, spec.classes());  // (B, classes)

  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
  graph.set_metric("correct", count_correct(logits, labels, weight));
  graph.set_output("logits", logits);
}

// Tokens (B, T) -> what the head wants (B, T, H)
Value body(const RnnSpec& spec, Value x) {
  const Value table = x.graph().parameter("embedding.weight", {spec.vocabulary(), spec.embedding()},
                                          Initializer::normal(1));
  Value y = embedding(x, table);  // (B, T, E)
  if (spec.dropout() > 0) y = dropout(y, spec.dropout());
  y = layers(spec, y).y;
  return spec.dropout() > 0 ? dropout(y, spec.dropout()) : y;
}

Value head(const RnnSpec& spec, Value y) {  // (B, T, H) -> (B*T, V)
  return dense_layer("dense", reshape(y, {0, spec.hidden()}), spec.vocabulary());
}

void build_language_model(const RnnSpec& spec, std::int64_t batch, std::int64_t steps,
                          Graph& graph) {
  const Value x = graph.input("x", {batch, steps}, DType::i32);
  const Value labels = graph.input("labels", {batch, steps}, DType::i32);
  const Value weight = graph.input("weight", {batch});

  const Value logits = reshape(head(spec, body(spec, x)), {batch, steps, spec.vocabulary()});

  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
  graph.set_output("logits", logits);
}

}  // namespace

ModelInfo rnn_info(const RnnSpec& spec) {
  ModelInfo info;
  if (spec.vocabulary() > 0) {
    if (spec.bidirectional())
      fail_input("model.rnn.bidirectional",
                 "a language model (vocabulary > 0) would read the tokens that it predicts; "
                 "allowed: false");
    info.record_shape = {spec.steps()};
    info.vocabulary = spec.vocabulary();
    return info;
  }
  info.record_shape = {spec.steps(), spec.inputs()};
  info.classes = spec.classes();
  info.has_accuracy = true;
  return info;
}

void build_rnn(const RnnSpec& spec, std::int64_t batch, std::int64_t length, Graph& graph) {
  rnn_info(spec);
  if (spec.vocabulary() == 0) return build_classifier(spec, batch, graph);
  build_language_model(spec, batch, length > 0 ? length : spec.steps(), graph);
}

void build_rnn_text(const RnnSpec& spec, std::int64_t length, Graph& graph) {
  const Value x = graph.input("x", {1, length}, DType::i32);
  const Value position = graph.input("position", {1}, DType::i32);
  graph.set_output("logits", reshape(head(spec, row_of(body(spec, x), position)), {0}));
}

}  // namespace peal
