#include <algorithm>
#include <cmath>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/loss_scale.h"

namespace peal::cpu {

void CpuKernels::guard(Stream&, const Tensor& x, Tensor go, Tensor cleared) {
  const float* values = x.as<float>();
  const bool finite =
      std::all_of(values, values + x.numel(), [](float value) { return std::isfinite(value); });
  if (!finite) *go.as<float>() = 0;
  if (*go.as<float>() == 0) std::fill_n(cleared.as<float>(), cleared.numel(), 0.0f);
}

void CpuKernels::clip(Stream&, const Tensor& sums, const Tensor& order, double clip,
                      const Tensor& scale, Tensor norm, Tensor factor) {
  const auto* const at = order.as<std::int64_t>();
  double sum = 0;
  for (std::int64_t i = 0; i < sums.numel(); ++i)
    sum += sums.as<double>()[at == nullptr ? i : at[i]];
  const float scaled = scale.empty() ? 1.0f : *scale.as<float>();
  const double root = std::sqrt(sum) / scaled, by = clip / (root + 1e-6);
  *norm.as<double>() = root;
  *factor.as<float>() = (clip == 0 || by > 1 ? 1.0f : static_cast<float>(by)) / scaled;
}

void CpuKernels::adapt_scale(Stream&, const Tensor& norm, std::int64_t every, Tensor open,
                             Tensor go, Tensor scaling) {
  adapt_loss_scale(*norm.as<double>(), every, *open.as<float>(), *go.as<float>(),
                   *scaling.as<LossScaling>());
}

}  // namespace peal::cpu
