// Recurrent layers: a classifier of sequences of vectors, or a language model over tokens.
#pragma once

#include "models/model.h"

namespace peal {

ModelInfo rnn_info(const RnnSpec& spec);
void build_rnn(const RnnSpec& spec, std::int64_t batch, Graph& graph);

}  // namespace peal
