// A trained language model that says what follows a text.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device/stream.h"
#include "launcher/model_weights.h"
#include "models/model.h"

namespace peal {

class LanguageModel {
 public:
  // Throws Error(input) where the model is none, or the checkpoint another's. On the CPU.
  LanguageModel(const ModelSpec& spec, const Checkpoint& checkpoint);

  std::int64_t vocabulary() const { return info_.vocabulary; }
  std::int64_t context() const { return info_.record_shape[0]; }

  // The score of each token (V) to follow the last of `tokens`, of which there is one at least; of
  // more than the context the last ones count. Throws Error(input) that names the first that is not
  // in the vocabulary. Valid until the next call.
  //
  // Cost: of a model that keeps a cache (ModelInfo::cache), one position where all tokens but the
  // last are those of the call before, or the first of them. Otherwise, and where a text longer
  // than the context moves on by a token, so that each stands at another position: one forward pass
  // over 16, 32, 64, ... positions, the first that hold all, at most the context, with the head for
  // the last. Both ways give the same scores but for rounding, and the same calls the same bits.
  std::span<const float> scores(std::span<const std::int32_t> tokens);

 private:
  static constexpr std::int64_t kNext = 0;  // the length of a plan for one more token

  void make_plan(std::int64_t length);
  bool goes_on(std::span<const std::int32_t> tokens) const;
  std::int64_t length_for(std::int64_t count) const;

  ModelSpec spec_;
  ModelInfo info_;
  std::unique_ptr<ModelWeights> weights_;
  Buffer inputs_;                    // tokens, then
  std::size_t position_ = 0;         // offset of the last one's position, and
  std::vector<std::size_t> cache_;   // of what is kept
  std::vector<std::int32_t> known_;  // the tokens of which it is
  std::int64_t length_ = -1;         // of the plan
  std::unique_ptr<Plan> plan_;
  Stream stream_;
};

}  // namespace peal
