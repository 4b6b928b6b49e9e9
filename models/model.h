// Models: one file a family, each a function that records its graph. To add one, follow cnn.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config/job.pb.h"
#include "core/graph/graph.h"

namespace peal {

// Inputs that every model declares: "x" (B, record shape...), "labels" (B) i32 or f32, "weight"
// (B). It sets the loss, the metric "correct" where accuracy means something, and the output
// "logits".
// A language model (vocabulary > 0) declares "x" (B, T) i32, the ids of T tokens in a row, and
// "labels" (B, T) i32: labels[b, t] is the token that follows x[b, t], so x[b, t + 1] but for the
// last. All are in [0, vocabulary). record_shape is {T}, "weight" stays (B): the loss of a record
// is the mean over its T positions. "logits" is (B, T, vocabulary) f32.
struct ModelInfo {
  Shape record_shape;        // one record, as the model wants it; its numel must match the data
  std::int64_t classes = 0;  // > 0: labels are class numbers below it; 0: f32 targets
  bool binary = false;       // f32 targets that must be 0 or 1
  bool has_accuracy = false;
  std::int64_t vocabulary = 0;  // > 0: a language model, as above; classes is 0 then
  // What a language model keeps of the positions of one text, so that build_next_token need not
  // compute them again: one f32 tensor for each cache_name(i). Empty: it keeps nothing.
  std::vector<Shape> cache;
};

ModelInfo model_info(const ModelSpec& spec);  // throws Error(input) naming the field

// Records the model for `batch` records. training and evaluation graphs have equal tables.
// `length` > 0, of a language model: x and labels are (B, length), shorter than record_shape says;
// the parameters are the same.
void build_model(const ModelSpec& spec, std::int64_t batch, Graph& graph, std::int64_t length = 0);

// A language model as it goes on with one text: no labels, no loss, the parameters of build_model's
// graph, whose table a Plan may have. Inputs are "x" (1, T) i32, "position" (1) i32, which is that
// of the last token, counted from the text's first, and the cache; the output "logits" (vocabulary)
// says what follows that token.
// The first `length` tokens of a text, of which those behind `position` do not count; writes the
// cache.
void build_text(const ModelSpec& spec, std::int64_t length, Graph& graph);
// One token, T = 1, behind those that the cache holds, which it joins there. Of a model that has a
// cache.
void build_next_token(const ModelSpec& spec, Graph& graph);
std::string cache_name(std::size_t i);  // of the input that is ModelInfo::cache[i]

// Tensors that other programs keep in a file of this model's weights and that it has no use for,
// such as PyTorch's num_batches_tracked.
bool ignores_tensor(const ModelSpec& spec, const std::string& name);

}  // namespace peal
