#include "launcher/language_model.h"

#include <algorithm>

#include "core/base/error.h"

namespace peal {
namespace {

constexpr std::int64_t kShortest = 16;

}  // namespace

LanguageModel::LanguageModel(const ModelSpec& spec, const Checkpoint& checkpoint)
    : spec_(spec), info_(model_info(spec)) {
  if (info_.vocabulary == 0) {
    fail_input(checkpoint.path().string(),
               "is of a model that says nothing of text; only a language model has a vocabulary");
  }
  weights_ = std::make_unique<ModelWeights>(spec, checkpoint);
  Arena arena;
  arena.reserve(static_cast<std::size_t>(context()) * sizeof(std::int32_t));
  position_ = arena.reserve(sizeof(std::int32_t));
  for (const Shape& shape : info_.cache)
    cache_.push_back(arena.reserve(static_cast<std::size_t>(shape.numel()) * sizeof(float)));
  inputs_ = Buffer(arena.size());
  known_.reserve(static_cast<std::size_t>(context()));
}

void LanguageModel::make_plan(std::int64_t length) {
  plan_.reset();  // two need not fit in memory
  Graph graph;
  if (length == kNext) {
    build_next_token(spec_, graph);
  } else {
    build_text(spec_, length, graph);
  }
  plan_ = std::make_unique<Plan>(graph, weights_->table(), kCpu, /*training=*/false);
  weights_->bind(*plan_);
  const auto set = [&](const std::string& name, std::size_t offset, const Shape& shape,
                       DType dtype) {
    plan_->set_input(name, {.data = inputs_.data() + offset, .shape = shape, .dtype = dtype});
  };
  set("x", 0, {1, length == kNext ? 1 : length}, DType::i32);
  set("position", position_, {1}, DType::i32);
  for (std::size_t i = 0; i < cache_.size(); ++i)
    set(cache_name(i), cache_[i], info_.cache[i], DType::f32);
  length_ = length;
}

// Whether all but the last are tokens that the cache holds.
bool LanguageModel::goes_on(std::span<const std::int32_t> tokens) const {
  const std::size_t before = tokens.size() - 1;
  return !cache_.empty() && before > 0 && before <= known_.size() &&
         std::equal(tokens.begin(), tokens.end() - 1, known_.begin());
}

std::int64_t LanguageModel::length_for(std::int64_t count) const {
  std::int64_t length = std::min(kShortest, context());
  while (length < count) length = std::min(2 * length, context());
  return length;
}

std::span<const float> LanguageModel::scores(std::span<const std::int32_t> tokens) {
  const auto most = static_cast<std::size_t>(context());
  if (tokens.size() > most) tokens = tokens.last(most);
  for (const std::int32_t token : tokens) {
    if (token >= 0 && token < vocabulary()) continue;
    fail_input("text", "has token ", token, "; the model's vocabulary is ", vocabulary(),
               ", tokens 0 to ", vocabulary() - 1);
  }
  const auto count = static_cast<std::int64_t>(tokens.size());
  const bool next = goes_on(tokens);
  const std::int64_t length = next ? kNext : length_for(count);
  if (length != length_) make_plan(length);
  auto* x = reinterpret_cast<std::int32_t*>(inputs_.data());
  if (next) {
    *x = tokens.back();
  } else {  // what stands behind the text changes nothing before it
    std::copy(tokens.begin(), tokens.end(), x);
    std::fill(x + count, x + length, 0);
  }
  *reinterpret_cast<std::int32_t*>(inputs_.data() + position_) =
      static_cast<std::int32_t>(count - 1);
  known_.clear();
  plan_->forward(stream_, {}, nullptr);
  stream_.synchronize();
  known_.assign(tokens.begin(), tokens.end());
  return {plan_->output("logits").as<float>(), static_cast<std::size_t>(vocabulary())};
}

}  // namespace peal
