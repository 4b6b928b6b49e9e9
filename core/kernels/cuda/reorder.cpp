#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal::cuda {
namespace {

class CopyReorder final : public Reorder {
 public:
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream& s, const Tensor& from, Tensor to, Tensor) override {
    peal::kernels(s.device()).copy(s, from, to);
  }
};

}  // namespace

std::unique_ptr<Reorder> CudaKernels::make_reorder(const Shape& shape, const Form& from,
                                                   const Form& to) {
  if (from.layout != nullptr || to.layout != nullptr)
    fail_internal("make_reorder", "tensors on CUDA are row-major; the one of shape ", shape,
                  " is not");
  return std::make_unique<CopyReorder>();
}

}  // namespace peal::cuda
