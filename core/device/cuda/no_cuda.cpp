#include "core/base/error.h"
#include "core/device/cuda/cuda_device.h"

namespace peal::cuda {
namespace {

[[noreturn]] void refuse(const std::string& where) {
  fail_input(where, "built without CUDA");
}

}  // namespace

std::string runtime_version() {
  return "built without CUDA";
}

int device_count() {
  return 0;
}

void require(const Device& device) {
  refuse(to_string(device));
}

std::string device_name(const Device& device) {
  refuse(to_string(device));
}

std::string device_identity(const Device& device) {
  refuse(to_string(device));
}

Current::Current(const Device& device) {
  refuse(to_string(device));
}

Current::~Current() = default;

std::byte* allocate(std::size_t, const Device& device) {
  refuse(to_string(device));
}

void release(std::byte*, const Device&) noexcept {}

void pin(std::byte*, std::size_t, const Device& device) {
  refuse(to_string(device));
}

void unpin(std::byte*) noexcept {}

std::byte* allocate_in_order(std::size_t, void*, const Device& device) {
  refuse(to_string(device));
}

void release_in_order(std::byte*, void*, const Device&) noexcept {}

void* make_stream(const Device& device) {
  refuse(to_string(device));
}

void free_stream(void*) noexcept {}

void synchronize_stream(void*, const Device& device) {
  refuse(to_string(device));
}

void copy(void*, const Device& device, std::byte*, const std::byte*, std::size_t) {
  refuse(to_string(device));
}

void* make_event(const Device& device) {
  refuse(to_string(device));
}

void free_event(void*) noexcept {}

void record_event(void*, void*, const Device& device) {
  refuse(to_string(device));
}

void wait_event(void*, void*) {
  refuse("stream");
}

bool event_done(void*) {
  refuse("event");
}

void synchronize_event(void*) {
  refuse("event");
}

void begin_capture(void*, const Device& device, const std::string&) {
  refuse(to_string(device));
}

void* end_capture(void*, const Device& device, const std::string&) {
  refuse(to_string(device));
}

void abandon_capture(void*, const Device&) noexcept {}

void launch_graph(void*, void*, const Device& device, const std::string&) {
  refuse(to_string(device));
}

void free_graph(void*) noexcept {}

void check_launch(const char* kernel) {
  refuse(kernel);
}

}  // namespace peal::cuda
