#include "models/gpt.h"

#include <cmath>
#include <functional>

#include "core/base/error.h"
#include "models/layers.h"

namespace peal {
namespace {

constexpr float kDeviation = 0.02f;  // of first weights

// Layers of one model; names and layouts are Hugging Face's (GPT2LMHeadModel).
class Gpt {
 public:
  // qkv (B, T, 3*C) of a layer -> (B, T, C)
  using Attend = std::function<Value(int layer, Value qkv)>;

  Gpt(const GptSpec& spec, Graph& graph) : spec_(spec), graph_(graph) {}

  // ids (B, T) -> what the head wants (B, T, C). The first positions of a text, or `position` (1).
  Value body(Value ids, const Attend& attend, Value position = {}) const {
    Value x = embed(ids, position);
    for (int layer = 0; layer < spec_.layers(); ++layer) x = block(layer, x, attend);
    return x;
  }

  // The head is the embedding, transposed: (B, T, C) -> (B, T, V)
  Value head(Value x) const {
    const std::int64_t batch = x.shape()[0], time = x.shape()[1];
    x = reshape(norm("transformer.ln_f", x), {batch * time, width()});
    return reshape(dense(x, tokens_, Value()), {batch, time, spec_.vocabulary()});
  }

 private:
  std::int64_t width() const { return spec_.width(); }

  Value embed(Value ids, Value position) const {
    const std::int64_t time = ids.shape()[1];
    Value positions = graph_.parameter("transformer.wpe.weight", {spec_.context(), width()},
                                       Initializer::normal(kDeviation));
    if (position.valid()) {
      positions = embedding(position, positions);
    } else if (time < spec_.context()) {
      positions = slice(positions, 0, 0, time);
    }
    return drop(add(embedding(ids, tokens_), positions));
  }

  // x + attention(norm(x)), then + perceptron(norm)
  Value block(int layer, Value x, const Attend& attend) const {
    const Graph::Block marked(graph_);
    const std::string name = "transformer.h." + std::to_string(layer);
    Value y = linear(name + ".attn.c_attn", norm(name + ".ln_1", x), 3 * width(), kDeviation);
    y = linear(name + ".attn.c_proj", attend(layer, y), width(), last_deviation());
    x = add(x, drop(y));
    y = linear(name + ".mlp.c_fc", norm(name + ".ln_2", x), 4 * width(), kDeviation);
    y = linear(name + ".mlp.c_proj", gelu_tanh(y), width(), last_deviation());
    return add(x, drop(y));
  }

  // Each block adds twice to what passes through; so that this does not grow with their number
  // (section 2.3 there).
  float last_deviation() const {
    return kDeviation / std::sqrt(2.0f * static_cast<float>(spec_.layers()));
  }

  // weight (in, out), as GPT-2 was first stored
  Value linear(const std::string& name, Value x, std::int64_t outputs, float deviation) const {
    const Value weight = graph_.parameter(name + ".weight", {x.shape()[-1], outputs},
                                          Initializer::normal(deviation));
    const Value bias = graph_.parameter(name + ".bias", {outputs}, Initializer::constant(0));
    return affine(x, weight, bias);
  }

  Value norm(const std::string& name, Value x) const {
    const Shape row = {width()};
    const Value gamma = graph_.parameter(name + ".weight", row, Initializer::constant(1));
    const Value beta = graph_.parameter(name + ".bias", row, Initializer::constant(0));
    return layer_norm(x, gamma, beta, 1e-5f);
  }

  Value drop(Value x) const { return spec_.dropout() > 0 ? dropout(x, spec_.dropout()) : x; }

  const GptSpec& spec_;
  Graph& graph_;
  const Value tokens_ = graph_.parameter("transformer.wte.weight", {spec_.vocabulary(), width()},
                                         Initializer::normal(kDeviation));
};

}  // namespace

ModelInfo gpt_info(const GptSpec& spec) {
  if (spec.width() % spec.heads() != 0)
    fail_input("model.gpt.heads", spec.heads(), " heads do not divide model.gpt.width ",
               spec.width());
  ModelInfo info;
  info.record_shape = {spec.context()};
  info.vocabulary = spec.vocabulary();
  const AttentionStepSpec step{
      .batch = 1, .context = spec.context(), .heads = spec.heads(), .width = spec.width()};
  info.cache.assign(static_cast<std::size_t>(spec.layers()), step.cache());
  return info;
}

void build_gpt(const GptSpec& spec, std::int64_t batch, std::int64_t length, Graph& graph) {
  gpt_info(spec);
  const Shape positions = {batch, length > 0 ? length : spec.context()};
  const Value ids = graph.input("x", positions, DType::i32);
  const Value labels = graph.input("labels", positions, DType::i32);
  const Value weight = graph.input("weight", {batch});

  const Gpt gpt(spec, graph);
  const auto attend = [&](int, Value qkv) { return attention(qkv, spec.heads()); };
  const Value logits = gpt.head(gpt.body(ids, attend));  // (B, T, V)

  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
  graph.set_output("logits", logits);
}

void build_gpt_text(const GptSpec& spec, std::int64_t length, bool next, Graph& graph) {
  const std::vector<Shape> cache = gpt_info(spec).cache;
  const Value ids = graph.input("x", {1, length}, DType::i32);
  const Value position = graph.input("position", {1}, DType::i32);

  const Gpt gpt(spec, graph);
  const Value from = next ? position : Value();
  const auto attend = [&](int layer, Value qkv) {
    const auto i = static_cast<std::size_t>(layer);
    return cached_attention(qkv, spec.heads(), graph.input(cache_name(i), cache[i]), from);
  };
  Value x = gpt.body(ids, attend, from);  // (1, T, C)
  if (!next) x = row_of(x, position);
  graph.set_output("logits", reshape(gpt.head(x), {0}));
}

bool gpt_ignores_tensor(const std::string& name) {
  return name == "lm_head.weight" || name.ends_with(".attn.bias") ||
         name.ends_with(".attn.masked_bias");
}

}  // namespace peal
