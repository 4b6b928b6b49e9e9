// Attention of half types as cuDNN computes it (Dao 2023), on tensor cores.
#pragma once

#include <memory>

#include "core/kernels/kernels.h"

namespace peal::cuda {

// nullptr where stored is f32, or cuDNN has no plan for it: heads are a multiple of 8 columns wide,
// up to 128.
std::unique_ptr<Attention> make_flash_attention(const Device& device, const AttentionSpec& spec);

}  // namespace peal::cuda
