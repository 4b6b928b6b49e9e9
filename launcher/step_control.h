// What a step's own numbers decide, on the device where they are made, and what the host reads of
// them when it comes to that: so that it enqueues the next step without waiting for this one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/device/buffer.h"
#include "core/device/stream.h"
#include "core/device/tensor.h"
#include "core/kernels/loss_scale.h"

namespace peal {

// What the host reads of one step.
struct StepValues {
  std::int64_t step = -1;  // -1: nothing to read, or it was read
  bool has_norm = false;
  Buffer memory;  // the head of the gradient arena, where the summed slots are; then Decided
  Event there;

  struct Decided {  // as it lies in the control's memory
    float go = 1, factor = 1;
    double norm = 0;
    float open = 1;
    LossScaling scaling = {1, 0, 1};
  };

  float slot(std::size_t offset) const {
    return *reinterpret_cast<const float*>(memory.data() + offset);
  }
  // With has_norm.
  const Decided& decided() const {
    return *reinterpret_cast<const Decided*>(memory.data() + memory.size() - kAlignment);
  }
};

// The control of a step (kernels.h), {go, factor}, and the gradient's norm beside it. `go` is 1
// until some loss was not finite and 0 from then on, so that steps that were enqueued before the
// host has seen that change nothing. With a loss scale that adapts that is `open`, and `go` is
// decided anew in each step: one whose gradient is not finite is skipped and is not the last.
class StepControl {
 public:
  // `slot_bytes`: of the gradient arena, from its start. `late`: a step's values are read while the
  // next one runs. `scaled`: there is a loss scale.
  StepControl(std::size_t slot_bytes, const Device& device, bool late, bool scaled);

  bool late() const { return late_; }
  Tensor control() const { return at(0, 2, DType::f32); }
  Tensor factor() const { return at(sizeof(float), 1, DType::f32); }
  Tensor norm() const { return at(offsetof(Decided, norm), 1, DType::f64); }
  Tensor go() const { return at(0, 1, DType::f32); }
  Tensor open() const { return at(offsetof(Decided, open), 1, DType::f32); }
  bool scaled() const { return scaled_; }
  // (3) f32, {scale, good, used}; kernels.h. What of it outlives the run is {scale, good}, (2).
  Tensor scaling() const { return at(offsetof(Decided, scaling), 3, DType::f32); }
  Tensor scale() const { return at(offsetof(Decided, scaling), 1, DType::f32); }

  // In a step, each at most once. The summed slots are at `slots`, the loss is one of them. Copies
  // them; where values are read late, a loss that is not finite closes go, and they become 0.
  void take_slots(Stream& s, std::int64_t step, std::byte* slots, std::size_t loss_offset);
  void take_norm(Stream& s);
  void end(Stream& s);

  StepValues& newest() { return values_[newest_]; }
  // What step() may read at its end, waited for: its own values, or late those of the step before.
  StepValues& due();

 private:
  using Decided = StepValues::Decided;

  Tensor at(std::size_t offset, std::int64_t count, DType dtype) const {
    return {memory_.data() + offset, {count}, dtype, device_};
  }

  const std::size_t slot_bytes_;
  const Device device_;
  const bool late_, scaled_;
  Buffer memory_;
  std::array<StepValues, 2> values_;
  std::size_t newest_ = 0;
};

}  // namespace peal
