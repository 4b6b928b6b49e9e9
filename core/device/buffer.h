// Buffer owns memory; Arena carves one Buffer at fixed offsets.
#pragma once

#include <cstddef>
#include <functional>

#include "core/device/device.h"

namespace peal {

inline constexpr std::size_t kAlignment = 64;  // bytes; a cache line and an AVX-512 register

constexpr std::size_t align_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Move-only, zeroed, aligned to a page when large and to kAlignment otherwise (on cuda: as
// cudaMalloc does, 256 bytes or more). Throws Error(internal) that says how much was asked for when
// there is not enough memory, Error(input) when the device is not there.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::size_t bytes, Device device = kCpu);
  // Takes over memory that somebody else made (a shared window); `release` frees it.
  Buffer(std::byte* data, std::size_t bytes, Device device, std::function<void()> release);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  const Device& device() const { return device_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  Device device_;
  std::function<void()> release_;
};

// Takes over host memory and page-locks it, so that copies between it and `device` run beside the
// host. For the CPU: `host` as it is.
Buffer pinned(Buffer host, const Device& device);

// Adds up aligned pieces: reserve(bytes) -> offset. The caller then makes one Buffer of size().
class Arena {
 public:
  std::size_t reserve(std::size_t bytes) {
    const std::size_t offset = size_;
    size_ += align_up(bytes);
    return offset;
  }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
};

}  // namespace peal
