// What follows a product where its library cannot fuse it.
#pragma once

#include "core/kernels/kernels.h"

namespace peal::cuda {

struct BiasShape {
  std::int64_t records, channels, inner;
};

// y (records, channels, inner), stored, = act(y + b (channels)), in place; act is none or relu, b
// may be nullptr. Nothing is launched where nothing would change.
void add_bias(Stream& s, const Tensor& y, const float* b, const BiasShape& shape,
              Activation activation);

}  // namespace peal::cuda
