// An ordered queue of work on a device, and marks in it. On the CPU the caller's thread is the
// queue: work has ended when its call returns, so that waiting costs nothing.
//
// On cuda a Stream is a cudaStream_t that does not wait for the legacy default stream. What the
// device refuses is thrown as Error(internal) that names the CUDA call; an error of work enqueued
// earlier may show in any later call, as CUDA has it.
#pragma once

#include <cstddef>

#include "core/device/device.h"

namespace peal {

class Event;

// Move-only; destroying one does not wait for its work.
class Stream {
 public:
  // Throws Error(input) when the device is not there.
  explicit Stream(Device device = kCpu) : device_(device) {
    if (device_.kind != Device::Kind::cpu) create();
  }
  // A stream of the host program (a cudaStream_t, 0 included), which keeps it.
  static Stream borrow(void* handle, Device device);
  ~Stream() {
    if (owned_ || workspace_ != nullptr) destroy();
  }
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;

  const Device& device() const { return device_; }
  void* handle() const { return handle_; }  // the cudaStream_t
  // The calling thread waits for all that was enqueued.
  void synchronize() const {
    if (device_.kind != Device::Kind::cpu) synchronize_device();
  }
  // On cuda: memory of the device in which a call keeps what its own kernels hand to each other,
  // as the calls of a stream run one after another. A stream of its own has it from the start; a
  // borrowed one gets it in the first call that asks, which must not be captured.
  static constexpr std::size_t kWorkspaceBytes = std::size_t{4} << 20;
  std::byte* workspace() {
    if (workspace_ == nullptr) make_workspace();
    return workspace_;
  }
  // What is enqueued from now on begins after the event.
  void wait(const Event& event);

 private:
  void create();
  void destroy() noexcept;
  void make_workspace();
  void synchronize_device() const;

  Device device_;
  void* handle_ = nullptr;
  std::byte* workspace_ = nullptr;
  bool owned_ = false;
};

// A mark in a stream of the same device; move-only. One that was never recorded is done.
class Event {
 public:
  explicit Event(Device device = kCpu) : device_(device) {
    if (device_.kind != Device::Kind::cpu) create();
  }
  ~Event() {
    if (handle_ != nullptr) destroy();
  }
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;

  // After all work that is in the stream now. Recording it again moves it.
  void record(Stream& s) {
    if (device_.kind != Device::Kind::cpu) record_on_device(s);
  }
  bool done() const { return device_.kind == Device::Kind::cpu || done_on_device(); }
  void synchronize() const {  // the calling thread waits
    if (device_.kind != Device::Kind::cpu) synchronize_device();
  }
  void* handle() const { return handle_; }  // the cudaEvent_t

 private:
  void create();
  void destroy() noexcept;
  void record_on_device(Stream& s);
  bool done_on_device() const;
  void synchronize_device() const;

  Device device_;
  void* handle_ = nullptr;
};

// Copies between memory of the host and of the stream's device, or within either. From and to
// pinned memory (buffer.h) the host goes on at once; other host memory may make it wait. `to` may
// be `from`; they do not overlap otherwise.
void copy(Stream& s, std::byte* to, const std::byte* from, std::size_t bytes);

}  // namespace peal
