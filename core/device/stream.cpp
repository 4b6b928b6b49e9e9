#include "core/device/stream.h"

#include <cstring>
#include <utility>

#include "core/device/cuda/cuda_device.h"

namespace peal {

Stream Stream::borrow(void* handle, Device device) {
  Stream stream;
  if (device.kind != Device::Kind::cpu) cuda::require(device);
  stream.device_ = device;
  stream.handle_ = handle;
  return stream;
}

Stream::Stream(Stream&& other) noexcept {
  *this = std::move(other);
}

Stream& Stream::operator=(Stream&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  std::swap(workspace_, other.workspace_);
  std::swap(owned_, other.owned_);
  return *this;
}

void Stream::wait(const Event& event) {
  if (device_.kind != Device::Kind::cpu) cuda::wait_event(handle_, event.handle());
}

void Stream::create() {
  handle_ = cuda::make_stream(device_);
  owned_ = true;
  try {
    make_workspace();
  } catch (...) {
    destroy();  // as the destructor of what was not made does not run
    throw;
  }
}

void Stream::destroy() noexcept {
  cuda::release_in_order(workspace_, handle_, device_);
  if (owned_) cuda::free_stream(handle_);
}

void Stream::make_workspace() {
  workspace_ = cuda::allocate_in_order(kWorkspaceBytes, handle_, device_);
}

void Stream::synchronize_device() const {
  cuda::synchronize_stream(handle_, device_);
}

Event::Event(Event&& other) noexcept {
  *this = std::move(other);
}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  return *this;
}

void Event::create() {
  handle_ = cuda::make_event(device_);
}

void Event::destroy() noexcept {
  cuda::free_event(handle_);
}

void Event::record_on_device(Stream& s) {
  cuda::record_event(handle_, s.handle(), device_);
}

bool Event::done_on_device() const {
  return cuda::event_done(handle_);
}

void Event::synchronize_device() const {
  cuda::synchronize_event(handle_);
}

void copy(Stream& s, std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes == 0 || to == from) return;
  if (s.device().kind != Device::Kind::cpu) {
    cuda::copy(s.handle(), s.device(), to, from, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

}  // namespace peal
