// An op together with its parameters, named "<name>.weight", "<name>.bias", ...; they start as
// PyTorch's layers of the same name do.
#pragma once

#include <string>

#include "core/graph/ops.h"

namespace peal {

Value dense_layer(const std::string& name, Value x, std::int64_t outputs);   // x (B, I)
Value conv2d_layer(const std::string& name, Value x, std::int64_t filters,   // x (B, C, H, W)
                   std::int64_t kernel, const Conv2dOptions& options = {});  // a square kernel
// x (B, T, I) or (T, B, I); parameters are those of PyTorch's nn.LSTM: "<name>.weight_ih_l0", ...
Recurrence recurrent_layers(const std::string& name, Value x, std::int64_t hidden,
                            const RecurrentOptions& options);
Value batch_norm_layer(const std::string& name, Value x, Value record_weight,  // x (B, C, ...)
                       float gamma = 1);
// Row `position` (1) i32 of x (1, T, C): (1, 1, C).
Value row_of(Value x, Value position);

// Whether a tensor is num_batches_tracked, which PyTorch saves with every batch norm and Peal has
// no use for.
bool counts_batches(const std::string& name);

}  // namespace peal
