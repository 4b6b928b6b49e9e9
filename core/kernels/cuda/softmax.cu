#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/rows.cuh"

namespace peal::cuda {
namespace {

template <class Part>
__global__ void __launch_bounds__(Part::kBlock)
    softmax_forward(const float* x, float* y, bool logarithm, RowsOf of) {
  const Part part(of);
  if (part.outside()) return;
  const auto row = part.read(x + part.offset());
  const float largest = part.max(row);
  const double total = part.sum([=](float v) { return exp_below(v - largest); }, row);
  float* to = y + part.offset();
  if (logarithm) {
    const double base = largest + log(total);
    part.write(
        to, [=](float v) { return static_cast<float>(v - base); }, row);
  } else {
    const double inverse = 1 / total;
    const auto share = [=](float v) {
      return static_cast<float>(exp_below(v - largest) * inverse);
    };
    part.write(to, share, row);
  }
}

template <class Part>
__global__ void __launch_bounds__(Part::kBlock)
    softmax_backward(const float* y, const float* dy, float* dx, bool logarithm, RowsOf of) {
  const Part part(of);
  if (part.outside()) return;
  const auto out = part.read(y + part.offset(), 0);
  const auto gradient = part.read(dy + part.offset(), 1);
  float* to = dx + part.offset();
  if (logarithm) {
    const double total = part.sum([](float g) { return static_cast<double>(g); }, gradient);
    part.write(
        to, [=](float v, float g) { return static_cast<float>(g - exp_below(v) * total); }, out,
        gradient);
  } else {
    const double total =
        part.sum([](float v, float g) { return static_cast<double>(v) * g; }, out, gradient);
    part.write(
        to, [=](float v, float g) { return static_cast<float>(v * (g - total)); }, out, gradient);
  }
}

class CudaSoftmax final : public Softmax {
 public:
  CudaSoftmax(std::int64_t rows, std::int64_t columns, bool logarithm)
      : rows_(rows), columns_(columns), logarithm_(logarithm) {}

  std::size_t scratch_bytes() const override { return 0; }

  void forward(Stream& s, const Tensor& x, Tensor y, Tensor) override {
    const bool wide = aligned(x.data) && aligned(y.data);
    for_part(columns_, [&]<class Part>(PartTag<Part>) {
      launch_rows<Part>(s, "softmax", softmax_forward<Part>, rows_, columns_, 1, wide,
                        x.as<float>(), y.as<float>(), logarithm_);
    });
  }

  void backward(Stream& s, const Tensor& y, const Tensor& dy, Tensor dx, Tensor) override {
    const bool wide = aligned(y.data) && aligned(dy.data) && aligned(dx.data);
    for_part(columns_, [&]<class Part>(PartTag<Part>) {
      launch_rows<Part>(s, "softmax backward", softmax_backward<Part>, rows_, columns_, 2, wide,
                        y.as<float>(), dy.as<float>(), dx.as<float>(), logarithm_);
    });
  }

 private:
  std::int64_t rows_, columns_;
  bool logarithm_;
};

}  // namespace

std::unique_ptr<Softmax> CudaKernels::make_softmax(std::int64_t rows, std::int64_t columns,
                                                   bool log) {
  return std::make_unique<CudaSoftmax>(rows, columns, log);
}

}  // namespace peal::cuda
