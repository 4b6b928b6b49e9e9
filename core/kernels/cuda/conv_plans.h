// Which of cuDNN's plans compute the passes of a convolution, and on tensors of which form.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/kernels/cuda/cudnn.h"

namespace peal::cuda {

struct ConvPlans {
  Conv2dSpec inner;     // what they compute: with channels filled up, or folded (fold.h)
  bool folded = false;  // channels-last, if it is
  ConvForm form;
  // nullptr: of a pass that is not wanted, or is computed otherwise.
  CudnnPlan *forward = nullptr, *backward_data = nullptr, *backward_weights = nullptr;
};

// As find_conv_plan does on a device.
using FindConvPlan = std::function<CudnnPlan*(const Conv2dSpec& spec, ConvPass pass,
                                              const ConvForm& form, std::string& why)>;

// f32 tensors are row-major. Halves lie channels-last where there are plans for that, folded where
// they can be. The first engines decide on the form; then the spec's algorithms take their place.
// own_weights: backward_weights is not wanted. Nothing, and why, where a pass has no plan; throws
// Error(input) where one has no engine of the number that the spec names.
std::optional<ConvPlans> choose_conv_plans(const Conv2dSpec& spec, bool own_weights,
                                           const FindConvPlan& find, std::string& why);

}  // namespace peal::cuda
