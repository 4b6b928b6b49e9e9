// Dense layers of any widths.
#pragma once

#include "models/model.h"

namespace peal {

ModelInfo mlp_info(const MlpSpec& spec);
void build_mlp(const MlpSpec& spec, std::int64_t batch, Graph& graph);

}  // namespace peal
