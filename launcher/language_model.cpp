#include "launcher/language_model.h"

#include <algorithm>

#include "core/base/error.h"
#include "launcher/evaluation.h"

namespace peal {
namespace {

constexpr std::int64_t kShortest = 16;

}  // namespace

LanguageModel::LanguageModel(const ModelSpec& spec, const Checkpoint& checkpoint) : spec_(spec) {
  const ModelInfo info = model_info(spec);
  if (info.vocabulary == 0) {
    fail_input(checkpoint.path().string(),
               "is of a model that says nothing of text; only a language model has a vocabulary");
  }
  vocabulary_ = info.vocabulary;
  context_ = info.record_shape[0];
  weights_ = std::make_unique<ModelWeights>(spec, checkpoint);
}

void LanguageModel::make_plan(std::int64_t length) {
  plan_.reset();  // two need not fit in memory
  Graph graph;
  build_model(spec_, /*batch=*/1, graph, length);
  add_stop_slot(graph);
  plan_ = std::make_unique<Plan>(graph, weights_->table(), kCpu, /*training=*/false);
  weights_->bind(*plan_);
  // Labels and weight 0: there is no loss.
  const std::size_t bytes = align_up(static_cast<std::size_t>(length) * sizeof(std::int32_t));
  inputs_ = Buffer(2 * bytes + 2 * kAlignment);
  std::fill_n(inputs_.data(), inputs_.size(), std::byte{0});
  const auto set = [&](const char* name, std::size_t offset, const Shape& shape, DType dtype) {
    plan_->set_input(name, {.data = inputs_.data() + offset, .shape = shape, .dtype = dtype});
  };
  set("x", 0, {1, length}, DType::i32);
  set("labels", bytes, {1, length}, DType::i32);
  set("weight", 2 * bytes, {1}, DType::f32);
  set("stop", 2 * bytes + kAlignment, {1}, DType::f32);
  x_ = reinterpret_cast<std::int32_t*>(inputs_.data());
  length_ = length;
}

std::span<const float> LanguageModel::scores(std::span<const std::int32_t> tokens) {
  const auto context = static_cast<std::size_t>(context_);
  if (tokens.size() > context) tokens = tokens.last(context);
  for (const std::int32_t token : tokens) {
    if (token >= 0 && token < vocabulary_) continue;
    fail_input("text", "has token ", token, "; the model's vocabulary is ", vocabulary_,
               ", tokens 0 to ", vocabulary_ - 1);
  }
  const auto count = static_cast<std::int64_t>(tokens.size());
  std::int64_t length = std::min(kShortest, context_);
  while (length < count) length = std::min(2 * length, context_);
  if (length != length_) make_plan(length);
  // What stands behind the text changes nothing before it.
  std::copy(tokens.begin(), tokens.end(), x_);
  std::fill(x_ + count, x_ + length, 0);
  plan_->forward(stream_, {}, nullptr);
  stream_.synchronize();
  const float* logits = plan_->output("logits").as<float>();  // (1, length, V)
  return {logits + (count - 1) * vocabulary_, static_cast<std::size_t>(vocabulary_)};
}

}  // namespace peal
