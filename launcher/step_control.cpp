#include "launcher/step_control.h"

#include <bit>

#include "core/kernels/kernels.h"

namespace peal {

StepControl::StepControl(std::size_t slot_bytes, const Device& device, bool late)
    : slot_bytes_(slot_bytes), device_(device), late_(late), memory_(kAlignment, device) {
  for (StepValues& values : values_) {
    values.memory = pinned(Buffer(align_up(slot_bytes) + kAlignment), device);
    values.there = Event(device);
  }
  Stream s(device);
  const auto open = std::bit_cast<std::int64_t>(std::array<float, 2>{1, 1});
  kernels(device).set_values(s, {&open, 1}, at(0, 1, DType::i64));
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
  kernels(device_).guard(s, {slots + loss_offset, {1}, DType::f32, device_}, at(0, 1, DType::f32),
                         {slots, {count}, DType::f32, device_});
}

void StepControl::take_norm(Stream& s) {
  newest().has_norm = true;
  copy(s, newest().memory.data() + newest().memory.size() - sizeof(double), norm().as<std::byte>(),
       sizeof(double));
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
