// An ordered queue of work on a device. On the CPU the caller's thread is the queue: a kernel has
// finished when its call returns, so that waiting costs nothing.
#pragma once

#include "core/device/device.h"

namespace peal {

class Stream {
 public:
  explicit Stream(Device device = kCpu) : device_(device) {}

  const Device& device() const { return device_; }
  void synchronize() {}

 private:
  Device device_;
};

}  // namespace peal
