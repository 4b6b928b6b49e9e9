#include "core/device/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include "core/base/error.h"

namespace peal::cuda {
namespace {

template <typename... Parts>
void check(cudaError_t status, const char* call, const Parts&... asked) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again
  throw Error(
      ErrorKind::internal, call,
      cat(cudaGetErrorString(status), " (", cudaGetErrorName(status), "); asked for ", asked...));
}

cudaStream_t stream_of(void* handle) {
  return static_cast<cudaStream_t>(handle);
}

cudaEvent_t event_of(void* handle) {
  return static_cast<cudaEvent_t>(handle);
}

}  // namespace

// Linked in: what it is built with is what runs.
std::string runtime_version() {
  return cat(CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10);
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

void require(const Device& device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    fail_input(to_string(device), "no CUDA device is visible: ",
               status != cudaSuccess ? cudaGetErrorString(status) : "the driver lists none");
  }
  if (device.kind != Device::Kind::cuda || device.index < 0 || device.index >= count) {
    fail_input(to_string(device), "there is no such CUDA device; cuda:0 to cuda:", count - 1,
               " are visible");
  }
}

std::string device_name(const Device& device) {
  require(device);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device.index), "cudaGetDeviceProperties",
        to_string(device));
  return properties.name;
}

std::string device_identity(const Device& device) {
  require(device);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device.index), "cudaGetDeviceProperties",
        to_string(device));
  std::string text;
  for (const char byte : properties.uuid.bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    const auto value = static_cast<unsigned char>(byte);
    text += {kDigits[value / 16], kDigits[value % 16]};
  }
  return text;
}

Current::Current(const Device& device) {
  int now = 0;
  check(cudaGetDevice(&now), "cudaGetDevice", "the current device");
  if (now == device.index) return;
  check(cudaSetDevice(device.index), "cudaSetDevice", to_string(device));
  before_ = now;
}

Current::~Current() {
  if (before_ >= 0) cudaSetDevice(before_);
}

std::byte* allocate(std::size_t bytes, const Device& device) {
  require(device);
  const Current current(device);
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "cudaMalloc", human_bytes(double(bytes)), " on ",
        to_string(device));
  // On a stream of its own: the default one may wait for work that waits for this thread.
  cudaStream_t zeroing = nullptr;
  cudaError_t status = cudaStreamCreateWithFlags(&zeroing, cudaStreamNonBlocking);
  if (status == cudaSuccess) status = cudaMemsetAsync(data, 0, bytes, zeroing);
  if (status == cudaSuccess) status = cudaStreamSynchronize(zeroing);
  if (zeroing != nullptr) cudaStreamDestroy(zeroing);
  if (status != cudaSuccess) cudaFree(data);
  check(status, "cudaMemset", human_bytes(double(bytes)), " on ", to_string(device));
  return static_cast<std::byte*>(data);
}

void release(std::byte* data, const Device&) noexcept {
  cudaFree(data);
}

void pin(std::byte* data, std::size_t bytes, const Device& device) {
  require(device);
  const Current current(device);
  check(cudaHostRegister(data, bytes, cudaHostRegisterPortable), "cudaHostRegister",
        human_bytes(double(bytes)), " of host memory for ", to_string(device));
}

void unpin(std::byte* data) noexcept {
  cudaHostUnregister(data);
}

std::byte* allocate_in_order(std::size_t bytes, void* stream, const Device& device) {
  const Current current(device);
  void* data = nullptr;
  check(cudaMallocAsync(&data, bytes, stream_of(stream)), "cudaMallocAsync",
        human_bytes(double(bytes)), " on ", to_string(device));
  return static_cast<std::byte*>(data);
}

void release_in_order(std::byte* data, void* stream, const Device& device) noexcept {
  if (data == nullptr) return;
  int before = 0;  // a stream 0 is the current device's
  const bool known = cudaGetDevice(&before) == cudaSuccess;
  cudaSetDevice(device.index);
  if (cudaFreeAsync(data, stream_of(stream)) != cudaSuccess) cudaGetLastError();
  if (known) cudaSetDevice(before);
}

void* make_stream(const Device& device) {
  require(device);
  const Current current(device);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags",
        "a stream on ", to_string(device));
  return stream;
}

void free_stream(void* stream) noexcept {
  cudaStreamDestroy(stream_of(stream));
}

void synchronize_stream(void* stream, const Device& device) {
  const Current current(device);
  check(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize", to_string(device));
}

void copy(void* stream, const Device& device, std::byte* to, const std::byte* from,
          std::size_t bytes) {
  const Current current(device);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)), "cudaMemcpyAsync",
        human_bytes(double(bytes)), " on ", to_string(device));
}

void* make_event(const Device& device) {
  require(device);
  const Current current(device);
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
        "cudaEventCreateWithFlags", "an event on ", to_string(device));
  return event;
}

void free_event(void* event) noexcept {
  cudaEventDestroy(event_of(event));
}

void record_event(void* event, void* stream, const Device& device) {
  const Current current(device);  // which stream 0 belongs to
  check(cudaEventRecord(event_of(event), stream_of(stream)), "cudaEventRecord", to_string(device));
}

void wait_event(void* stream, void* event) {
  check(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0), "cudaStreamWaitEvent",
        "a stream that waits for an event");
}

bool event_done(void* event) {
  const cudaError_t status = cudaEventQuery(event_of(event));
  if (status == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(status, "cudaEventQuery", "work enqueued earlier");
  return true;
}

void synchronize_event(void* event) {
  check(cudaEventSynchronize(event_of(event)), "cudaEventSynchronize", "work enqueued earlier");
}

// Thread-local: what other threads of the process do, such as other ranks' allocations, is neither
// captured nor in the way.
void begin_capture(void* stream, const Device& device, const std::string& name) {
  const Current current(device);
  check(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture", "a graph of \"", name, "\" on ", to_string(device));
}

void* end_capture(void* stream, const Device& device, const std::string& name) {
  const Current current(device);
  cudaGraph_t captured = nullptr;
  check(cudaStreamEndCapture(stream_of(stream), &captured), "cudaStreamEndCapture", "a graph of \"",
        name, "\" on ", to_string(device));
  cudaGraphExec_t graph = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&graph, captured, 0);
  cudaGraphDestroy(captured);
  check(status, "cudaGraphInstantiate", "a graph of \"", name, "\" on ", to_string(device));
  return graph;
}

void abandon_capture(void* stream, const Device& device) noexcept {
  int before = 0;
  const bool known = cudaGetDevice(&before) == cudaSuccess;
  cudaSetDevice(device.index);
  cudaGraph_t captured = nullptr;
  if (cudaStreamEndCapture(stream_of(stream), &captured) == cudaSuccess && captured != nullptr)
    cudaGraphDestroy(captured);
  cudaGetLastError();  // that what was captured is no good is no news
  if (known) cudaSetDevice(before);
}

void launch_graph(void* graph, void* stream, const Device& device, const std::string& name) {
  const Current current(device);
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream)), "cudaGraphLaunch",
        "\"", name, "\" on ", to_string(device));
}

void free_graph(void* graph) noexcept {
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

void check_launch(const char* kernel) {
  check(cudaGetLastError(), "kernel launch", kernel);
}

}  // namespace peal::cuda
