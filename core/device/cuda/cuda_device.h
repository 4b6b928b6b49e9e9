// CUDA's runtime as core/device uses it: handles are cudaStream_t and cudaEvent_t. no_cuda.cpp is
// the twin where Peal is built without CUDA, in which device_count() is 0, what frees does nothing
// and all else throws Error(input) "built without CUDA".
//
// The current device of the calling thread is the same after a call as before.
#pragma once

#include <cstddef>
#include <string>

#include "core/device/device.h"

namespace peal::cuda {

std::string runtime_version();  // "13.0"; without CUDA that it is missing
int device_count();
void require(const Device& device);  // Error(input) when it is not there
std::string device_name(const Device& device);
std::string device_identity(const Device& device);

// Makes a device the thread's current one as long as it lives, for kernels and libraries that look
// at that.
class Current {
 public:
  explicit Current(const Device& device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  [[maybe_unused]] int before_ = -1;  // -1: was the same
};

std::byte* allocate(std::size_t bytes, const Device& device);  // zeroed
void release(std::byte* data, const Device& device) noexcept;
void pin(std::byte* data, std::size_t bytes, const Device& device);
void unpin(std::byte* data) noexcept;

// In the order of a stream's work: nothing waits. Not zeroed.
std::byte* allocate_in_order(std::size_t bytes, void* stream, const Device& device);
void release_in_order(std::byte* data, void* stream, const Device& device) noexcept;

void* make_stream(const Device& device);
void free_stream(void* stream) noexcept;
void synchronize_stream(void* stream, const Device& device);
void copy(void* stream, const Device& device, std::byte* to, const std::byte* from,
          std::size_t bytes);

void* make_event(const Device& device);
void free_event(void* event) noexcept;
void record_event(void* event, void* stream, const Device& device);
void wait_event(void* stream, void* event);
bool event_done(void* event);
void synchronize_event(void* event);

// What the calling thread enqueues on the stream from begin to end becomes a graph
// (cudaGraphExec_t) instead of being done; `name` is for errors. Other threads may call anything
// meanwhile. end frees what it captured when it throws; the stream works as before then.
void begin_capture(void* stream, const Device& device, const std::string& name);
void* end_capture(void* stream, const Device& device, const std::string& name);
void abandon_capture(void* stream, const Device& device) noexcept;
void launch_graph(void* graph, void* stream, const Device& device, const std::string& name);
void free_graph(void* graph) noexcept;  // after launches that are under way

// After a kernel was launched: throws what CUDA says of the launch.
void check_launch(const char* kernel);

}  // namespace peal::cuda
