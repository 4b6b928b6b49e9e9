// GPT-2 (Radford et al. 2019): a decoder of text tokens.
#pragma once

#include <string>

#include "models/model.h"

namespace peal {

ModelInfo gpt_info(const GptSpec& spec);
// `length`: positions, 0: the context.
void build_gpt(const GptSpec& spec, std::int64_t batch, std::int64_t length, Graph& graph);
// As build_text, or build_next_token.
void build_gpt_text(const GptSpec& spec, std::int64_t length, bool next, Graph& graph);

// What Hugging Face's files of this model may hold and the model has no use for: masks of the
// attention, and the head where it was stored beside the embedding that it is.
bool gpt_ignores_tensor(const std::string& name);

}  // namespace peal
