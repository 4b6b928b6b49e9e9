// What the lines of cuda_bench are measured and printed with.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/device/buffer.h"
#include "core/device/stream.h"
#include "core/kernels/kernels.h"

namespace peal {

constexpr std::int64_t kLarge = std::int64_t{64} << 20;  // elements of a large tensor
constexpr int kCalls = 21, kWarmUp = 3;

inline void check(cudaError_t status) {
  if (status != cudaSuccess) fail_internal("CUDA", cudaGetErrorString(status));
}

// Times what is enqueued on a stream.
class Clock {
 public:
  Clock() {
    for (auto& pair : marks_)
      for (cudaEvent_t& mark : pair) check(cudaEventCreate(&mark));
  }
  ~Clock() {
    for (const auto& pair : marks_)
      for (cudaEvent_t mark : pair) cudaEventDestroy(mark);
  }

  // Median of milliseconds.
  double measure(const Stream& s, const std::function<void()>& call) {
    const auto stream = static_cast<cudaStream_t>(s.handle());
    for (int i = 0; i < kWarmUp; ++i) call();
    s.synchronize();
    for (const auto& [begin, end] : marks_) {
      check(cudaEventRecord(begin, stream));
      call();
      check(cudaEventRecord(end, stream));
    }
    s.synchronize();
    std::array<float, kCalls> times;
    for (std::size_t i = 0; i < times.size(); ++i) {
      check(cudaEventElapsedTime(&times[i], marks_[i][0], marks_[i][1]));
    }
    std::nth_element(times.begin(), times.begin() + kCalls / 2, times.end());
    return times[kCalls / 2];
  }

 private:
  std::array<std::array<cudaEvent_t, 2>, kCalls> marks_{};
};

inline std::int64_t bytes_of(std::initializer_list<Tensor> tensors) {
  std::size_t sum = 0;
  for (const Tensor& t : tensors) sum += t.bytes();
  return static_cast<std::int64_t>(sum);
}

class BenchBase {
 public:
  BenchBase(const Device& device, std::string only)
      : s_(device), k_(kernels(device)), device_(device), only_(std::move(only)) {
    std::vector<float> values(kLarge);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(mix64(i) >> 40) * 0x1p-23f - 1;
    }
    for (Buffer& buffer : large_) buffer = Buffer(values.size() * sizeof(float), device);
    write(large_[0].data(), values.data(), values.size() * sizeof(float));
    for (std::size_t i = 1; i < large_.size(); ++i) {
      copy(s_, large_[i].data(), large_[0].data(), large_[0].size());
    }
    for (Buffer& buffer : small_) {
      buffer = Buffer(kSmallBytes, device);
      copy(s_, buffer.data(), large_[0].data(), kSmallBytes);
    }
    s_.synchronize();
  }

 protected:
  static constexpr std::size_t kSmallBytes = 4 << 20;

  void write(std::byte* there, const void* here, std::size_t bytes) {
    copy(s_, there, static_cast<const std::byte*>(here), bytes);
    s_.synchronize();
  }
  Tensor large(std::size_t i, const Shape& shape, const Layout* layout = nullptr) const {
    return at(large_[i], shape, layout);
  }
  Tensor half(std::size_t i, const Shape& shape, const Layout* layout = nullptr) const {
    return at(large_[i], shape, layout, DType::bf16);
  }
  Tensor small(std::size_t i, const Shape& shape) const { return at(small_[i], shape, nullptr); }
  Tensor any_key() const { return at(small_[0], {2}, nullptr, DType::i64); }  // of dropout
  Tensor at(const Buffer& buffer, const Shape& shape, const Layout* layout,
            DType dtype = DType::f32) const {
    const Tensor t{buffer.data(), shape, dtype, device_, layout};
    if (layout_bytes(t) > buffer.size()) fail_internal("bench", "too small for ", shape);
    return t;
  }
  Tensor ids(std::int64_t count, std::int64_t below) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<std::int32_t>(mix64(i) % static_cast<std::uint64_t>(below));
    }
    const Tensor t{ids_.data(), {count}, DType::i32, device_};
    write(ids_.data(), values.data(), t.bytes());
    return t;
  }
  Buffer bytes(std::size_t count) const { return Buffer(count, device_); }
  Tensor view(const Buffer& buffer) const {
    if (buffer.size() == 0) return {};
    return {buffer.data(), {static_cast<std::int64_t>(buffer.size())}, DType::u8, device_};
  }

  // One line; `work` is bytes, or operations of which the line then gives TFLOP/s.
  void line(const char* name, const Shape& shape, std::int64_t work,
            const std::function<void()>& call, bool flops = false) {
    if (std::string(name).find(only_) == std::string::npos) return;
    try {
      const double ms = clock_.measure(s_, call);
      const double rate = static_cast<double>(work) / ms / (flops ? 1e9 : 1e6);
      if (flops) {
        std::printf("| %s | %s | - | %.3f | %.1f | - |\n", name, to_string(shape).c_str(), ms,
                    rate);
      } else {
        std::printf("| %s | %s | %lld | %.3f | %.0f | %.0f%% |\n", name, to_string(shape).c_str(),
                    static_cast<long long>(work >> 20), ms, rate, 100 * rate / copy_rate_);
      }
    } catch (const std::exception& error) {
      std::printf("| %s | %s | - | failed: %s | - | - |\n", name, to_string(shape).c_str(),
                  error.what());
      failed_ = true;
    }
    std::fflush(stdout);
  }
  // The same for the making of a prepared kernel that the lines need.
  void group(const char* name, const std::function<void()>& lines) {
    try {
      lines();
    } catch (const std::exception& error) {
      std::printf("| %s | - | - | failed: %s | - | - |\n", name, error.what());
      failed_ = true;
    }
  }

  Stream s_;
  Kernels& k_;
  Device device_;
  std::string only_;
  Clock clock_;
  double copy_rate_ = 1;
  bool failed_ = false;
  std::array<Buffer, 4> large_;
  std::array<Buffer, 7> small_;
  Buffer ids_{kSmallBytes, device_};
};

}  // namespace peal
