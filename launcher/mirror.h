// Memory of a device beside a copy of it on the host, where checkpoints and messages between hosts
// read and write. On the CPU both are one.
#pragma once

#include "core/device/buffer.h"
#include "core/device/stream.h"

namespace peal {

class Mirror {
 public:
  Mirror() = default;
  Mirror(std::size_t bytes, const Device& device) : memory_(bytes, device) {
    if (device.kind != Device::Kind::cpu) host_ = pinned(Buffer(bytes), device);
  }

  std::byte* data() const { return memory_.data(); }
  std::byte* host() const { return host_.data() != nullptr ? host_.data() : memory_.data(); }
  std::size_t size() const { return memory_.size(); }

  // Enqueued; the host may touch its copy when the stream has come there.
  void upload(Stream& s) { copy(s, data(), host(), size()); }
  void download(Stream& s) const { copy(s, host(), data(), size()); }

 private:
  Buffer memory_, host_;
};

}  // namespace peal
