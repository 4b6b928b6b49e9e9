// ResNet 18, 34 and 50 (He et al. 2016, https://arxiv.org/abs/1512.03385), parameters named as
// torchvision names them.
#pragma once

#include "models/model.h"

namespace peal {

ModelInfo resnet_info(const ResNetSpec& spec);
void build_resnet(const ResNetSpec& spec, std::int64_t batch, Graph& graph);

}  // namespace peal
