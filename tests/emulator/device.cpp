// The twin of core/device/cuda/cuda_device.cpp: one device, whose memory is the host's.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "core/device/cuda/cuda_device.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/stream.h"

namespace peal::emulator {

void enqueue(cudaStream_t stream, std::function<void()> work) {
  auto* const of = reinterpret_cast<Stream*>(stream);
  if (of != nullptr && of->captures) {
    of->graph.push_back(std::move(work));
  } else {
    work();
  }
}

}  // namespace peal::emulator

namespace peal::cuda {
namespace {

using emulator::Graph;

emulator::Stream* stream_of(void* handle) {
  return static_cast<emulator::Stream*>(handle);
}

constexpr int kUnset = 0xff;  // NaNs

std::byte* allocate_filled(std::size_t bytes, int with) {
  constexpr std::size_t kAlignment = 256;  // cudaMalloc's
  void* data = nullptr;
  if (posix_memalign(&data, kAlignment, bytes) != 0) fail_internal("cudaMalloc", bytes, " bytes");
  return static_cast<std::byte*>(std::memset(data, with, bytes));
}

}  // namespace

std::string runtime_version() {
  return "emulated";
}
int device_count() {
  return 1;
}
void require(const Device& device) {
  if (device.kind != Device::Kind::cuda || device.index != 0)
    fail_input(to_string(device), "there is no such emulated device; cuda:0 is");
}
std::string device_name(const Device& device) {
  require(device);
  return "emulated GPU";
}
std::string device_identity(const Device& device) {
  require(device);
  return std::string(32, '0');
}

Current::Current(const Device& device) {
  require(device);
}
Current::~Current() = default;

std::byte* allocate(std::size_t bytes, const Device& device) {
  require(device);
  return allocate_filled(bytes, 0);
}
void release(std::byte* data, const Device&) noexcept {
  std::free(data);
}
void pin(std::byte*, std::size_t, const Device& device) {
  require(device);
}
void unpin(std::byte*) noexcept {}

std::byte* allocate_in_order(std::size_t bytes, void*, const Device& device) {
  require(device);
  return allocate_filled(bytes, kUnset);
}
void release_in_order(std::byte* data, void*, const Device&) noexcept {
  std::free(data);
}

void* make_stream(const Device& device) {
  require(device);
  return new emulator::Stream;
}
void free_stream(void* stream) noexcept {
  delete stream_of(stream);
}
void synchronize_stream(void* stream, const Device& device) {
  require(device);
  if (stream != nullptr && stream_of(stream)->captures)
    fail_internal("cudaStreamSynchronize", "the stream is being captured");
}
void copy(void* stream, const Device& device, std::byte* to, const std::byte* from,
          std::size_t bytes) {
  require(device);
  emulator::enqueue(static_cast<cudaStream_t>(stream), [=] { std::memmove(to, from, bytes); });
}

void* make_event(const Device& device) {
  require(device);
  return new char;
}
void free_event(void* event) noexcept {
  delete static_cast<char*>(event);
}
void record_event(void*, void*, const Device& device) {
  require(device);
}
void wait_event(void*, void*) {}
bool event_done(void*) {
  return true;
}
void synchronize_event(void*) {}

void begin_capture(void* stream, const Device& device, const std::string& name) {
  require(device);
  if (stream_of(stream)->captures) fail_internal("cudaStreamBeginCapture", "\"", name, "\": again");
  *stream_of(stream) = {.captures = true, .graph = {}};
}
void* end_capture(void* stream, const Device& device, const std::string& name) {
  require(device);
  if (!stream_of(stream)->captures)
    fail_internal("cudaStreamEndCapture", "\"", name, "\": nothing is being captured");
  auto graph = std::make_unique<Graph>(std::move(stream_of(stream)->graph));
  *stream_of(stream) = {};
  return graph.release();
}
void abandon_capture(void* stream, const Device&) noexcept {
  *stream_of(stream) = {};
}
void launch_graph(void* graph, void* stream, const Device& device, const std::string&) {
  require(device);
  for (const auto& work : *static_cast<const Graph*>(graph)) {
    emulator::enqueue(static_cast<cudaStream_t>(stream), work);
  }
}
void free_graph(void* graph) noexcept {
  delete static_cast<Graph*>(graph);
}

void check_launch(const char*) {}  // launch throws by itself

}  // namespace peal::cuda
