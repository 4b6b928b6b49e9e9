#include "launcher/step_control.h"

#include "core/kernels/kernels.h"

namespace peal {

StepControl::StepControl(std::size_t slot_bytes, const Device& device, bool late, bool scaled)
    : slot_bytes_(slot_bytes),
      device_(device),
      late_(late),
      scaled_(scaled),
      memory_(kAlignment, device) {
  static_assert(sizeof(Decided) <= kAlignment);
  for (StepValues& values : values_) {
    values.memory = pinned(Buffer(align_up(slot_bytes) + kAlignment), device);
    values.there = Event(device);
  }
  Stream s(device);
  const Decided first;
  copy(s, memory_.data(), reinterpret_cast<const std::byte*>(&first), sizeof first);
  s.synchronize();
}

void StepControl::take_slots(Stream& s, std::int64_t step, std::byte* slots,
                             std::size_t loss_offset) {
  newest_ = 1 - newest_;
  newest().step = step;
  newest().has_norm = false;
  copy(s, newest().memory.data(), slots, slot_bytes_);
  if (!late_) return;  // the host looks at them before anything is updated
  const auto count = static_cast<std::int64_t>(slot_bytes_ / sizeof(float));
  kernels(device_).guard(s, {slots + loss_offset, {1}, DType::f32, device_},
                         scaled_ ? open() : go(), {slots, {count}, DType::f32, device_});
}

void StepControl::take_norm(Stream& s) {
  newest().has_norm = true;
  copy(s, newest().memory.data() + newest().memory.size() - kAlignment, memory_.data(),
       sizeof(Decided));
}

void StepControl::end(Stream& s) {
  newest().there.record(s);
}

StepValues& StepControl::due() {
  StepValues& values = values_[late_ ? 1 - newest_ : newest_];
  values.there.synchronize();
  return values;
}

}  // namespace peal
