#include "core/kernels/cuda/conv_plans.h"

#include "core/base/error.h"
#include "core/kernels/cuda/fold.h"

namespace peal::cuda {
namespace {

constexpr std::int64_t kChannels = 8;  // of which tensor cores read a multiple

class Choice {
 public:
  Choice(const Conv2dSpec& spec, bool own_weights, const FindConvPlan& find, std::string& why)
      : spec_(spec), own_weights_(own_weights), find_(find), why_(why) {}

  std::optional<ConvPlans> choose() {
    const bool halves = spec_.stored != DType::f32;
    const bool found = (halves && can_fold(spec_) && find_all(/*last=*/true, /*fold=*/true)) ||
                       (halves && find_all(/*last=*/true, /*fold=*/false)) ||
                       find_all(/*last=*/false, /*fold=*/false);
    if (!found) return std::nullopt;
    take_chosen(ConvPass::forward, plans_.forward);
    take_chosen(ConvPass::backward_data, plans_.backward_data);
    take_chosen(ConvPass::backward_weights, plans_.backward_weights);
    return plans_;
  }

 private:
  // Of all passes that are wanted, for tensors in that order. False where one is missing.
  bool find_all(bool last, bool fold) {
    plans_ = {
        .inner = fold ? folded(spec_) : spec_, .folded = fold, .form = {.channels_last = last}};
    for (int& number : plans_.inner.algorithms) number = 0;
    if (last && !fold && spec_.groups == 1) {
      const std::int64_t channels = (spec_.x[1] + kChannels - 1) / kChannels * kChannels;
      plans_.inner.x[1] = plans_.inner.w[1] = channels;
    }
    return find_forward() &&
           (!spec_.training ||
            ((own_weights_ || find_backward_weights()) &&
             (!spec_.needs_dx || find_pass(ConvPass::backward_data, plans_.backward_data))));
  }

  bool find_pass(ConvPass pass, CudnnPlan*& plan) {
    plan = find_(plans_.inner, pass, plans_.form, why_);
    return plan != nullptr;
  }

  // cuDNN fuses what it has an engine for; else bias and activation are a pass of their own.
  bool find_forward() {
    plans_.form.fused = spec_.bias || spec_.activation != Activation::none;
    if (plans_.form.fused && find_pass(ConvPass::forward, plans_.forward)) return true;
    plans_.form.fused = false;
    return find_pass(ConvPass::forward, plans_.forward);
  }

  bool find_backward_weights() {
    if (find_pass(ConvPass::backward_weights, plans_.backward_weights)) return true;
    plans_.form.dw = spec_.stored;
    return spec_.stored != DType::f32 &&
           find_pass(ConvPass::backward_weights, plans_.backward_weights);
  }

  void take_chosen(ConvPass pass, CudnnPlan*& plan) {
    const int number = spec_.algorithm(pass);
    if (number == 0) return;
    plans_.inner.algorithms[static_cast<int>(pass)] = number;
    std::string why = "it has one";
    if (plan != nullptr) plan = find_(plans_.inner, pass, plans_.form, why);
    if (plan != nullptr) return;
    constexpr const char* kNames[kConvPasses] = {"forward", "backward_data", "backward_weights"};
    fail_input("conv2d", "there is no engine ", number, " for ", kNames[static_cast<int>(pass)],
               " of x ", spec_.x, ", weight ", spec_.w, ": ", why,
               "; a table of algorithms has named it");
  }

  const Conv2dSpec& spec_;
  const bool own_weights_;
  const FindConvPlan& find_;
  std::string& why_;
  ConvPlans plans_;
};

}  // namespace

std::optional<ConvPlans> choose_conv_plans(const Conv2dSpec& spec, bool own_weights,
                                           const FindConvPlan& find, std::string& why) {
  return Choice(spec, own_weights, find, why).choose();
}

}  // namespace peal::cuda
