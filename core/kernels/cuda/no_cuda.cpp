#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal::cuda {

Kernels& kernels(const Device& device) {
#ifdef PEAL_WITHOUT_CUDNN
  fail_input(to_string(device),
             "built without cuDNN: its headers, cudnn.h and cudnn_frontend.h, were not there when "
             "Peal was built (cluster/install_deps.sh installs the latter)");
#else
  fail_input(to_string(device), "built without CUDA");
#endif
}

}  // namespace peal::cuda
