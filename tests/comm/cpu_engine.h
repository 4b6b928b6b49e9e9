// A DeviceEngine for tests: the CPU is the device and a communicator of host memory is NCCL, so
// that all of a device communicator but NCCL and the kernels' launch runs without a GPU.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <tuple>

#include "comm/device_engine.h"
#include "core/base/error.h"

namespace peal {

// What a test may do to the engines of a job, and sees of them.
struct EngineControl {
  std::atomic<bool> stuck{false};       // calls that were started do not end
  std::atomic<bool> connecting{false};  // calls wait for peers before they start
  std::atomic<int> slow{-1};            // this rank takes its time to close
  std::atomic<int> aborted{0}, closed{0};
  std::atomic<int> native{0}, sums{0};
};

class CpuEngine final : public DeviceEngine {
 public:
  CpuEngine(std::unique_ptr<Communicator> carrier, EngineControl& control, const Look& look)
      : carrier_(std::move(carrier)), control_(control), look_(look) {
    carrier_->set_deadline(60);
  }

  Stream& stream() override { return stream_; }

  void all_reduce(const std::byte* x, std::byte* y, std::size_t count, DType dtype,
                  ReduceOp op) override {
    native(op);
    wait(carrier_->all_reduce(stream_, "x", view(x, count, dtype), view(y, count, dtype), op));
  }
  void reduce(const std::byte* x, std::byte* y, std::size_t count, DType dtype, ReduceOp op,
              int root) override {
    native(op);
    wait(carrier_->reduce(stream_, "x", view(x, count, dtype), view(y, count, dtype), op, root));
  }
  void reduce_scatter(const std::byte* x, std::byte* y, std::size_t count, DType dtype,
                      ReduceOp op) override {
    native(op);
    const auto n = static_cast<std::size_t>(carrier_->world_size());
    wait(carrier_->reduce_scatter(stream_, "x", view(x, n * count, dtype), view(y, count, dtype),
                                  op));
  }
  void all_gather(const std::byte* x, std::byte* y, std::size_t bytes) override {
    const auto n = static_cast<std::size_t>(carrier_->world_size());
    wait(carrier_->all_gather(stream_, "x", view(x, bytes), view(y, n * bytes)));
  }
  void broadcast(std::byte* x, std::size_t bytes, int root) override {
    wait(carrier_->broadcast(stream_, "x", view(x, bytes), root));
  }

  void send(const std::byte* from, std::size_t bytes, int to) override {
    messages_.push_back({to, true, const_cast<std::byte*>(from), bytes});
    if (!in_group_) deliver();
  }
  void receive(std::byte* to, std::size_t bytes, int from) override {
    messages_.push_back({from, false, to, bytes});
    if (!in_group_) deliver();
  }
  void begin_group() override { in_group_ = true; }
  void end_group() override {
    in_group_ = false;
    deliver();
  }

  void sum(const ReducePlan& plan, const SumSources& sources, std::byte* y, std::size_t count,
           DType dtype, ReduceOp op, int divisor) override {
    if (count == 0 || plan.slots > kMostSlots) fail_internal("sum", count, " elements");
    ++control_.sums;
    const SumSteps steps{plan.steps.data(), static_cast<int>(plan.steps.size()), op, divisor,
                         plan.rounds_each_step};
    with_element(dtype, [&]<typename T>() {
      for (std::size_t i = 0; i < count; ++i) {
        sum_lanes<T, 1>(steps, sources, reinterpret_cast<T*>(y), i);
      }
    });
  }
  void divide(std::byte* y, std::size_t count, DType dtype, int divisor) override {
    with_element(dtype, [&]<typename T>() {
      for (std::size_t i = 0; i < count; ++i) {
        divide_lanes<T, 1>(reinterpret_cast<T*>(y), divisor, i);
      }
    });
  }
  std::byte* scratch(std::size_t bytes) override {
    if (scratch_.size() < bytes) scratch_ = Buffer(bytes);
    return scratch_.data();
  }

  bool ended(const Event&) override { return !control_.stuck; }
  void check() override {}
  void abort() noexcept override { ++control_.aborted; }
  void close() override {
    if (control_.slow == carrier_->rank()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
    ++control_.closed;
  }

 private:
  struct Message {
    int peer = 0;
    bool is_send = false;
    std::byte* data = nullptr;
    std::size_t bytes = 0;
  };

  static Tensor view(const std::byte* x, std::size_t count, DType dtype = DType::u8) {
    return {const_cast<std::byte*>(x), {static_cast<std::int64_t>(count)}, dtype};
  }
  void native(ReduceOp op) {
    if (op == ReduceOp::mean) fail_internal("engine", "is asked for a mean");
    const auto start = std::chrono::steady_clock::now();
    while (control_.connecting) {
      look_("all_reduce", start);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ++control_.native;
  }
  void wait(Request request) { carrier_->wait(stream_, request); }

  // A send of the carrier ends when its data was taken: all ranks go through pairs in one order,
  // and in each the lower rank sends first.
  void deliver() {
    const int me = carrier_->rank();
    const auto turn = [&](const Message& m) {
      const bool lower_sends = m.is_send == (me < m.peer);
      return std::tuple(std::min(me, m.peer), std::max(me, m.peer), lower_sends ? 0 : 1);
    };
    std::stable_sort(messages_.begin(), messages_.end(),
                     [&](const Message& a, const Message& b) { return turn(a) < turn(b); });
    for (const Message& m : messages_) {
      if (m.bytes == 0) fail_internal("engine", "is asked for a message of 0 bytes");
      wait(m.is_send ? carrier_->send(stream_, "m", view(m.data, m.bytes), m.peer)
                     : carrier_->recv(stream_, "m", view(m.data, m.bytes), m.peer));
    }
    messages_.clear();
  }

  std::unique_ptr<Communicator> carrier_;
  EngineControl& control_;
  Look look_;
  Stream stream_;
  Buffer scratch_;
  std::vector<Message> messages_;
  bool in_group_ = false;
};

inline MakeEngine make_cpu_engine(EngineControl& control) {
  return [&control](Communicator& side, const Look& look) {
    return std::make_unique<CpuEngine>(side.split(0, side.rank()), control, look);
  };
}

}  // namespace peal
