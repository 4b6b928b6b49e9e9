// Operations of an element, for for_elements and for_nest. For .cu files alone.
#pragma once

namespace peal::cuda {

struct CopyElement {
  __device__ void operator()(const float* from, float* to) const { *to = *from; }
};

struct ScaleElement {
  float factor;
  __device__ void operator()(const float* from, float* to) const { *to = factor * *from; }
};

}  // namespace peal::cuda
