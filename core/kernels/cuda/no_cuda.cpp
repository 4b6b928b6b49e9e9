#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal::cuda {

Kernels& kernels(const Device& device) {
  fail_input(to_string(device), "built without CUDA");
}

}  // namespace peal::cuda
