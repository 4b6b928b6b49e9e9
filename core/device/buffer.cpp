#include "core/device/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "core/base/error.h"
#include "core/device/cuda/cuda_device.h"

namespace peal {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

Buffer::Buffer(std::size_t bytes, Device device) : size_(bytes), device_(device) {
  if (device.kind == Device::Kind::cuda) {
    cuda::require(device);
    if (bytes == 0) return;
    data_ = cuda::allocate(bytes, device);
    release_ = [data = data_, device] { cuda::release(data, device); };
    return;
  }
  if (bytes == 0) return;
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) fail_internal("memory", "cannot allocate ", human_bytes(double(bytes)));
  // Large arenas are streamed through whole: fewer TLB misses are worth a hint that may be refused.
  if (alignment == kHugePage) ::madvise(memory, rounded, MADV_HUGEPAGE);
  std::memset(memory, 0, bytes);
  data_ = static_cast<std::byte*>(memory);
  release_ = [memory] { std::free(memory); };
}

Buffer::Buffer(std::byte* data, std::size_t bytes, Device device, std::function<void()> release)
    : data_(data), size_(bytes), device_(device), release_(std::move(release)) {}

Buffer::~Buffer() {
  if (release_) release_();
}

Buffer::Buffer(Buffer&& other) noexcept {
  *this = std::move(other);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  if (release_) release_();
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  device_ = other.device_;
  release_ = std::exchange(other.release_, nullptr);
  return *this;
}

Buffer pinned(Buffer host, const Device& device) {
  if (device.kind == Device::Kind::cpu || host.size() == 0) return host;
  std::byte* data = host.data();
  const std::size_t bytes = host.size();
  cuda::pin(data, bytes, device);
  const auto kept = std::make_shared<Buffer>(std::move(host));
  return Buffer(data, bytes, kCpu, [kept, data] { cuda::unpin(data); });
}

}  // namespace peal
