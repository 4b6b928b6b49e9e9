// A trained language model that says what follows a text.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "core/device/stream.h"
#include "launcher/model_weights.h"

namespace peal {

class LanguageModel {
 public:
  // Throws Error(input) where the model is none, or the checkpoint another's. On the CPU.
  LanguageModel(const ModelSpec& spec, const Checkpoint& checkpoint);

  std::int64_t vocabulary() const { return vocabulary_; }
  std::int64_t context() const { return context_; }

  // The score of each token (V) to follow the last of `tokens`, of which there is one at least; of
  // more than the context the last ones count. Throws Error(input) that names the first that is not
  // in the vocabulary. Valid until the next call.
  // Cost: one forward pass over 16, 32, 64, ... positions, the first that hold all, at most the
  // context.
  std::span<const float> scores(std::span<const std::int32_t> tokens);

 private:
  void make_plan(std::int64_t length);

  ModelSpec spec_;
  std::int64_t vocabulary_ = 0, context_ = 0;
  std::unique_ptr<ModelWeights> weights_;
  std::int64_t length_ = 0;  // of the plan
  std::unique_ptr<Plan> plan_;
  Buffer inputs_;
  std::int32_t* x_ = nullptr;
  Stream stream_;
};

}  // namespace peal
