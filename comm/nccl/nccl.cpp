// NCCL as a DeviceEngine.
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>

#include "comm/device_transport.h"
#include "comm/nccl/sum_kernels.h"
#include "comm/queue.h"
#include "core/device/cuda/cuda_device.h"
#include "core/device/cuda/library.h"

namespace peal {
namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return ncclFloat64;
    case DType::f32:
      return ncclFloat32;
    case DType::f16:
      return ncclFloat16;
    case DType::bf16:
      return ncclBfloat16;
    case DType::i64:
      return ncclInt64;
    case DType::i32:
      return ncclInt32;
    case DType::i8:
      return ncclInt8;
    case DType::u8:
    case DType::boolean:
      return ncclUint8;
  }
  fail_internal("NCCL", "unknown dtype ", static_cast<int>(dtype));
}

// A bool is a byte of 0 or 1: "or" is their maximum and "and" their minimum.
ncclRedOp_t operation_of(DType dtype, ReduceOp op) {
  const bool truth = dtype == DType::boolean;
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return truth ? ncclMax : ncclSum;
    case ReduceOp::product:
      return truth ? ncclMin : ncclProd;
    case ReduceOp::min:
      return ncclMin;
    case ReduceOp::max:
      return ncclMax;
  }
  fail_internal("NCCL", "unknown operation ", static_cast<int>(op));
}

// NCCL's functions, from the library that is opened when the first communicator over it is made.
struct Nccl {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
  decltype(&ncclCommInitRankConfig) init_rank;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommFinalize) finalize;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclReduce) reduce;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;

  explicit Nccl(const Device& device) {
    const std::string name = cat("libnccl.so.", NCCL_MAJOR);
    void* const library = cuda::open_library(device, name);
    const auto find = [&](const char* function, auto& found) {
      cuda::find_function(library, name, function, found);
    };
    find("ncclGetVersion", get_version);
    find("ncclGetUniqueId", get_unique_id);
    find("ncclGetErrorString", error_string);
    find("ncclGetLastError", last_error);
    find("ncclCommInitRankConfig", init_rank);
    find("ncclCommGetAsyncError", async_error);
    find("ncclCommAbort", abort);
    find("ncclCommFinalize", finalize);
    find("ncclCommDestroy", destroy);
    find("ncclGroupStart", group_start);
    find("ncclGroupEnd", group_end);
    find("ncclAllReduce", all_reduce);
    find("ncclReduceScatter", reduce_scatter);
    find("ncclReduce", reduce);
    find("ncclAllGather", all_gather);
    find("ncclBroadcast", broadcast);
    find("ncclSend", send);
    find("ncclRecv", recv);
  }
};

const Nccl& nccl_of(const Device& device) {
  static const Nccl functions(device);
  return functions;
}

std::string version_text(const Nccl& nccl) {
  int version = 0;
  if (nccl.get_version(&version) != ncclSuccess) return "unknown";
  return cat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

class NcclEngine final : public DeviceEngine {
 public:
  // Collective over `side`.
  NcclEngine(Communicator& side, const Device& device, const Look& look)
      : nccl_(nccl_of(device)), look_(look), device_(device), stream_(device) {
    const ncclUniqueId id = spread_id(side);
    const cuda::Current current(device_);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    where_ = cat("NCCL on ", to_string(device_));
    try {
      submit(nccl_.init_rank(&comm_, side.world_size(), id, side.rank(), &config),
             "ncclCommInitRankConfig");
    } catch (const Error&) {
      abort();
      throw;
    }
  }
  ~NcclEngine() override { abort(); }

  Stream& stream() override { return stream_; }

  void all_reduce(const std::byte* x, std::byte* y, std::size_t count, DType dtype,
                  ReduceOp op) override {
    const cuda::Current current(device_);
    submit(nccl_.all_reduce(x, y, count, type_of(dtype), operation_of(dtype, op), comm_, queue()),
           "ncclAllReduce");
  }
  void reduce(const std::byte* x, std::byte* y, std::size_t count, DType dtype, ReduceOp op,
              int root) override {
    const cuda::Current current(device_);
    submit(nccl_.reduce(x, y, count, type_of(dtype), operation_of(dtype, op), root, comm_, queue()),
           "ncclReduce");
  }
  void reduce_scatter(const std::byte* x, std::byte* y, std::size_t count, DType dtype,
                      ReduceOp op) override {
    const cuda::Current current(device_);
    submit(
        nccl_.reduce_scatter(x, y, count, type_of(dtype), operation_of(dtype, op), comm_, queue()),
        "ncclReduceScatter");
  }
  void all_gather(const std::byte* x, std::byte* y, std::size_t bytes) override {
    const cuda::Current current(device_);
    submit(nccl_.all_gather(x, y, bytes, ncclUint8, comm_, queue()), "ncclAllGather");
  }
  void broadcast(std::byte* x, std::size_t bytes, int root) override {
    const cuda::Current current(device_);
    submit(nccl_.broadcast(x, x, bytes, ncclUint8, root, comm_, queue()), "ncclBroadcast");
  }
  void send(const std::byte* from, std::size_t bytes, int to) override {
    const cuda::Current current(device_);
    submit(nccl_.send(from, bytes, ncclUint8, to, comm_, queue()), "ncclSend");
  }
  void receive(std::byte* to, std::size_t bytes, int from) override {
    const cuda::Current current(device_);
    submit(nccl_.recv(to, bytes, ncclUint8, from, comm_, queue()), "ncclRecv");
  }
  void begin_group() override {
    submit(nccl_.group_start(), "ncclGroupStart");
    in_group_ = true;
  }
  void end_group() override {
    const cuda::Current current(device_);
    in_group_ = false;
    submit(nccl_.group_end(), "ncclGroupEnd");
  }

  void sum(const ReducePlan& plan, const SumSources& sources, std::byte* y, std::size_t count,
           DType dtype, ReduceOp op, int divisor) override {
    if (plan.slots > kMostSlots) {
      fail_internal("NCCL", "a plan with ", plan.slots, " scratch slots; at most ", kMostSlots);
    }
    const SumSteps steps{steps_on_device(plan), static_cast<int>(plan.steps.size()), op, divisor,
                         plan.rounds_each_step};
    cuda::launch_sum(stream_, steps, sources, y, count, dtype);
  }
  void divide(std::byte* y, std::size_t count, DType dtype, int divisor) override {
    cuda::launch_divide(stream_, y, count, dtype, divisor);
  }
  // What it outgrows is kept: to free device memory waits for the device, where a call may be
  // stuck.
  std::byte* scratch(std::size_t bytes) override {
    if (scratch_.size() < bytes) {
      const std::size_t grown = std::max(bytes, 2 * scratch_.size());
      outgrown_.push_back(std::move(scratch_));
      scratch_ = Buffer(grown, device_);
    }
    return scratch_.data();
  }

  bool ended(const Event& end) override { return end.done(); }
  void check() override {
    ncclResult_t state = ncclSuccess;
    if (comm_ == nullptr || nccl_.async_error(comm_, &state) != ncclSuccess) return;
    if (state != ncclSuccess && state != ncclInProgress) refuse(state, "the device");
  }
  void abort() noexcept override {
    if (comm_ == nullptr) return;
    if (in_group_) nccl_.group_end();  // it would hold back what follows on this thread
    in_group_ = false;
    nccl_.abort(comm_);
    comm_ = nullptr;
  }
  void close() override {
    const cuda::Current current(device_);
    look_ = [](const char*, auto) {};  // a peer that is gone has seen it through
    submit(nccl_.finalize(comm_), "ncclCommFinalize");
    nccl_.destroy(comm_);
    comm_ = nullptr;
  }

 private:
  cudaStream_t queue() const { return static_cast<cudaStream_t>(stream_.handle()); }

  // Rank 0 makes the id. 1 broadcast of 128 bytes.
  ncclUniqueId spread_id(Communicator& side) {
    ncclUniqueId id{};
    std::optional<Error> error;
    if (side.rank() == 0) {
      const ncclResult_t status = nccl_.get_unique_id(&id);
      if (status != ncclSuccess) {
        error = Error(ErrorKind::peer, "ncclGetUniqueId", nccl_.error_string(status));
      }
    }
    agree_on_error(side, error ? &*error : nullptr);
    Stream s;
    side.wait(s, side.broadcast(s, "NCCL id", {&id, {sizeof id}, DType::u8}, /*root=*/0));
    return id;
  }

  // Calls do not block: waits until what was asked for is enqueued, or done if it is no work of a
  // stream. Ranks that talk for the first time wait for each other here. Inside a group nothing
  // begins before its end.
  void submit(ncclResult_t status, const char* call) {
    const auto start = std::chrono::steady_clock::now();
    for (int round = 0; status == ncclInProgress && !in_group_; ++round) {
      const ncclResult_t asked = nccl_.async_error(comm_, &status);
      if (asked != ncclSuccess) refuse(asked, call);
      if (status != ncclInProgress) break;
      look_(call, start);
      if (round > kBriskRounds) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (status != ncclSuccess && status != ncclInProgress) refuse(status, call);
  }

  [[noreturn]] void refuse(ncclResult_t status, const char* call) const {
    const char* last = nccl_.last_error(comm_);
    throw Error(ErrorKind::peer, where_,
                cat(call, ": ", nccl_.error_string(status),
                    last != nullptr && *last != 0 ? "; " : "", last != nullptr ? last : ""));
  }

  // Uploaded once; the plans of a communicator stay where they are.
  const ReducePlan::Step* steps_on_device(const ReducePlan& plan) {
    Buffer& steps = steps_[&plan];
    const std::size_t bytes = plan.steps.size() * sizeof(ReducePlan::Step);
    if (steps.size() != bytes) {
      steps = Buffer(bytes, device_);
      Stream upload(device_);  // apart from calls that may be stuck
      copy(upload, steps.data(), reinterpret_cast<const std::byte*>(plan.steps.data()), bytes);
      upload.synchronize();
    }
    return reinterpret_cast<const ReducePlan::Step*>(steps.data());
  }

  static constexpr int kBriskRounds = 100;

  const Nccl& nccl_;
  Look look_;
  Device device_;
  Stream stream_;
  Buffer scratch_;
  std::vector<Buffer> outgrown_;
  std::map<const ReducePlan*, Buffer> steps_;
  std::string where_;
  ncclComm_t comm_ = nullptr;
  bool in_group_ = false;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, Device device,
                                                     const NcclOptions& options) {
  std::optional<Error> mine;
  try {
    if (device.kind != Device::Kind::cuda)
      fail_input(to_string(device), "NCCL is for CUDA devices");
    require_device(device);
    nccl_of(device);
    const auto* queue = dynamic_cast<const QueuedCommunicator*>(&host);
    if (queue == nullptr || !queue->place().progress_thread) {
      fail_input(to_string(device),
                 "make_nccl_communicator needs a host communicator with a progress thread; between "
                 "hosts that is MPI_THREAD_MULTIPLE");
    }
  } catch (const Error& error) {
    mine = error;
  }
  agree_on_error(host, mine ? &*mine : nullptr);
  agree(host, {{"NCCL version", version_text(nccl_of(device))}});
  return make_engine_communicator(host, device, "nccl", options,
                                  [device](Communicator& side, const Look& look) {
                                    return std::make_unique<NcclEngine>(side, device, look);
                                  });
}

}  // namespace peal
