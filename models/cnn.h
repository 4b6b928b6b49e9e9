// The reference convolutional network for pictures.
#pragma once

#include "models/model.h"

namespace peal {

ModelInfo cnn_info(const CnnSpec& spec);
void build_cnn(const CnnSpec& spec, std::int64_t batch, Graph& graph);

}  // namespace peal
