// Recurrent layers: a classifier of sequences of vectors, or a language model over tokens.
#pragma once

#include "models/model.h"

namespace peal {

ModelInfo rnn_info(const RnnSpec& spec);
// `length`: steps of a language model, 0: as many as the spec says.
void build_rnn(const RnnSpec& spec, std::int64_t batch, std::int64_t length, Graph& graph);
void build_rnn_text(const RnnSpec& spec, std::int64_t length, Graph& graph);  // as build_text

}  // namespace peal
