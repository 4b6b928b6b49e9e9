// cuDNN's RNN API (v8) with the standard algorithm and plain f32 arithmetic. cuDNN wants all
// parameters in one "weight space": they are copied there, and their gradients back, by a list of
// places that is made once.
#include "core/kernels/cuda/cudnn_rnn.h"

#include <cudnn.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "core/base/error.h"
#include "core/device/buffer.h"
#include "core/device/cuda/cuda_device.h"
#include "core/device/cuda/library.h"

namespace peal::cuda {
namespace {

constexpr std::size_t kSpaceAlignment = 256;

struct Api {
  decltype(&cudnnGetErrorString) error_string;
  decltype(&cudnnCreate) create;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnCreateDropoutDescriptor) create_dropout;
  decltype(&cudnnSetDropoutDescriptor) set_dropout;
  decltype(&cudnnDestroyDropoutDescriptor) destroy_dropout;
  decltype(&cudnnCreateTensorDescriptor) create_tensor;
  decltype(&cudnnSetTensorNdDescriptor) set_tensor;
  decltype(&cudnnDestroyTensorDescriptor) destroy_tensor;
  decltype(&cudnnCreateRNNDescriptor) create_rnn;
  decltype(&cudnnSetRNNDescriptor_v8) set_rnn;
  decltype(&cudnnDestroyRNNDescriptor) destroy_rnn;
  decltype(&cudnnCreateRNNDataDescriptor) create_data;
  decltype(&cudnnSetRNNDataDescriptor) set_data;
  decltype(&cudnnDestroyRNNDataDescriptor) destroy_data;
  decltype(&cudnnGetRNNTempSpaceSizes) temp_sizes;
  decltype(&cudnnGetRNNWeightSpaceSize) weight_size;
  decltype(&cudnnGetRNNWeightParams) weight_params;
  decltype(&cudnnRNNForward) forward;
  decltype(&cudnnRNNBackwardData_v8) backward_data;
  decltype(&cudnnRNNBackwardWeights_v8) backward_weights;
};

const Api& api_of(const Device& device) {
  static std::once_flag once;
  static Api api;
  std::call_once(once, [&] {
    const std::string name = cat("libcudnn.so.", CUDNN_MAJOR);
    void* const library = open_library(device, name);
    const auto find = [&](const char* function, auto& found) {
      find_function(library, name, function, found);
    };
    find("cudnnGetErrorString", api.error_string);
    find("cudnnCreate", api.create);
    find("cudnnSetStream", api.set_stream);
    find("cudnnCreateDropoutDescriptor", api.create_dropout);
    find("cudnnSetDropoutDescriptor", api.set_dropout);
    find("cudnnDestroyDropoutDescriptor", api.destroy_dropout);
    find("cudnnCreateTensorDescriptor", api.create_tensor);
    find("cudnnSetTensorNdDescriptor", api.set_tensor);
    find("cudnnDestroyTensorDescriptor", api.destroy_tensor);
    find("cudnnCreateRNNDescriptor", api.create_rnn);
    find("cudnnSetRNNDescriptor_v8", api.set_rnn);
    find("cudnnDestroyRNNDescriptor", api.destroy_rnn);
    find("cudnnCreateRNNDataDescriptor", api.create_data);
    find("cudnnSetRNNDataDescriptor", api.set_data);
    find("cudnnDestroyRNNDataDescriptor", api.destroy_data);
    find("cudnnGetRNNTempSpaceSizes", api.temp_sizes);
    find("cudnnGetRNNWeightSpaceSize", api.weight_size);
    find("cudnnGetRNNWeightParams", api.weight_params);
    find("cudnnRNNForward", api.forward);
    find("cudnnRNNBackwardData_v8", api.backward_data);
    find("cudnnRNNBackwardWeights_v8", api.backward_weights);
  });
  return api;
}

// A handle of a device, used by one thread at a time. Never freed: at the end of the program CUDA
// may be gone before it.
struct Handle {
  std::mutex mutex;
  cudnnHandle_t handle = nullptr;
};

void check(const Api& api, const Device& device, cudnnStatus_t status, const char* call) {
  if (status != CUDNN_STATUS_SUCCESS)
    fail_internal(to_string(device), call, ": ", api.error_string(status));
}

Handle& handle_of(const Api& api, const Device& device) {
  static std::mutex mutex;
  static auto& of_index = *new std::map<int, std::unique_ptr<Handle>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Handle>& handle = of_index[device.index];
  if (handle == nullptr) {
    auto made = std::make_unique<Handle>();
    check(api, device, api.create(&made->handle), "cudnnCreate");
    handle = std::move(made);
  }
  return *handle;
}

// A descriptor of cuDNN's.
template <typename T>
class Described {
 public:
  Described(cudnnStatus_t (*create)(T*), cudnnStatus_t (*destroy)(T)) : destroy_(destroy) {
    if (create(&value_) != CUDNN_STATUS_SUCCESS) value_ = nullptr;  // the next call says so
  }
  ~Described() { destroy_(value_); }
  Described(const Described&) = delete;
  Described& operator=(const Described&) = delete;
  operator T() const { return value_; }  // NOLINT: stands for its descriptor

 private:
  T value_ = nullptr;
  cudnnStatus_t (*destroy_)(T);
};

// `count` floats of a parameter, from `from` on, lie in the weight space from `to` on.
struct Piece {
  std::size_t weight = 0;
  std::int64_t from = 0, to = 0, count = 0;
};

class CudnnRecurrent final : public Recurrent {
 public:
  CudnnRecurrent(const Device& device, const RecurrentSpec& spec)
      : device_(device), spec_(spec), api_(api_of(device)), handle_(handle_of(api_, device)) {
    const std::lock_guard lock(handle_.mutex);
    describe();
    find_pieces();
    place();
  }

  std::size_t saved_bytes() const override { return spec_.training ? reserve_bytes_ : 0; }
  std::size_t scratch_bytes() const override { return size_ + kSpaceAlignment; }

  void forward(Stream& s, const Tensor& x, const Tensor&, const State& first,
               std::span<const Tensor> weights, Tensor y, State last, Tensor saved,
               Tensor scratch) override {
    std::byte* const area = aligned(scratch);
    pack(s, weights, area);
    {
      const Current current(device_);
      const std::lock_guard lock(handle_.mutex);
      set_stream(s);
      check_call(api_.forward(handle_.handle, rnn_, mode(), nullptr, x_, x.data, y_, y.data, state_,
                              first.h.data, last.h.data, state_, first.c.data, last.c.data,
                              weight_bytes_, area + weights_, work_bytes_, area + work_,
                              reserve_bytes_, spec_.training ? area + reserve_ : nullptr),
                 "cudnnRNNForward");
    }
    // By way of scratch, as saved memory need not lie where cuDNN wants it and backward, in which
    // cuDNN writes to it, may only read ours.
    if (spec_.training)
      peal::kernels(device_).copy(s, floats(area + reserve_, reserve_bytes_),
                                  floats(saved.data, reserve_bytes_));
  }

  void backward(Stream& s, const Tensor& x, const Tensor&, const State& first,
                std::span<const Tensor> weights, const Tensor& y, const Tensor& dy,
                const State& dlast, const Tensor& saved, Tensor dx, State dfirst,
                std::span<const Tensor> dweights, Tensor scratch) override {
    Kernels& k = peal::kernels(device_);
    std::byte* const area = aligned(scratch);
    pack(s, weights, area);
    k.copy(s, floats(saved.data, reserve_bytes_), floats(area + reserve_, reserve_bytes_));
    const Tensor dspace = floats(area + dweights_, weight_bytes_);
    k.fill(s, dspace, 0);
    const Tensor no_dy = floats(area + dy_, tensor_bytes(spec_.y()));
    if (dy.empty()) k.fill(s, no_dy, 0);
    run_backward(s, x, first, y, dy.empty() ? no_dy.data : dy.data, dlast,
                 dx.empty() ? area + dx_ : dx.data, dfirst, area);
    for (const Piece& p : pieces_)
      k.copy(s, part(dspace, p.to, p.count), part(dweights[p.weight], p.from, p.count));
  }

 private:
  void check_call(cudnnStatus_t status, const char* call) const {
    check(api_, device_, status, call);
  }
  cudnnForwardMode_t mode() const {
    return spec_.training ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE;
  }
  static std::size_t tensor_bytes(const Shape& shape) {
    return static_cast<std::size_t>(shape.numel()) * sizeof(float);
  }
  Tensor floats(void* data, std::size_t bytes) const {
    return {data, {static_cast<std::int64_t>(bytes / sizeof(float))}, DType::f32, device_};
  }
  Tensor part(const Tensor& x, std::int64_t from, std::int64_t count) const {
    return {x.as<float>() + from, {count}, DType::f32, device_};
  }
  static std::byte* aligned(const Tensor& area) {
    const auto start = reinterpret_cast<std::uintptr_t>(area.data);
    return area.as<std::byte>() + (kSpaceAlignment - start % kSpaceAlignment) % kSpaceAlignment;
  }

  void pack(Stream& s, std::span<const Tensor> weights, std::byte* area) const {
    const Tensor space = floats(area + weights_, weight_bytes_);
    for (const Piece& p : pieces_)
      peal::kernels(device_).copy(s, part(weights[p.weight], p.from, p.count),
                                  part(space, p.to, p.count));
  }

  void set_stream(Stream& s) {
    check_call(api_.set_stream(handle_.handle, static_cast<cudaStream_t>(s.handle())),
               "cudnnSetStream");
  }

  cudnnRNNMode_t cell() const {
    switch (spec_.cell) {
      case RecurrentCell::rnn_tanh:
        return CUDNN_RNN_TANH;
      case RecurrentCell::rnn_relu:
        return CUDNN_RNN_RELU;
      case RecurrentCell::lstm:
        return CUDNN_LSTM;
      case RecurrentCell::gru:
        break;
    }
    return CUDNN_GRU;
  }

  void describe_data(cudnnRNNDataDescriptor_t data, std::int64_t width) {
    const std::vector<int> lengths(static_cast<std::size_t>(spec_.batch),
                                   static_cast<int>(spec_.steps));
    float zero = 0;
    check_call(api_.set_data(data, CUDNN_DATA_FLOAT,
                             spec_.batch_first ? CUDNN_RNN_DATA_LAYOUT_BATCH_MAJOR_UNPACKED
                                               : CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_UNPACKED,
                             static_cast<int>(spec_.steps), static_cast<int>(spec_.batch),
                             static_cast<int>(width), lengths.data(), &zero),
               "cudnnSetRNNDataDescriptor");
  }

  void describe() {
    check_call(api_.set_dropout(dropout_, handle_.handle, 0, nullptr, 0, 0),
               "cudnnSetDropoutDescriptor");
    check_call(api_.set_rnn(rnn_, CUDNN_RNN_ALGO_STANDARD, cell(), CUDNN_RNN_DOUBLE_BIAS,
                            spec_.bidirectional ? CUDNN_BIDIRECTIONAL : CUDNN_UNIDIRECTIONAL,
                            CUDNN_LINEAR_INPUT, CUDNN_DATA_FLOAT, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH,
                            static_cast<int>(spec_.inputs), static_cast<int>(spec_.hidden),
                            static_cast<int>(spec_.hidden), static_cast<int>(spec_.layers),
                            dropout_, CUDNN_RNN_PADDED_IO_ENABLED),
               "cudnnSetRNNDescriptor_v8");
    describe_data(x_, spec_.inputs);
    describe_data(y_, spec_.directions() * spec_.hidden);
    const Shape shape = spec_.state();
    const int dims[] = {static_cast<int>(shape[0]), static_cast<int>(shape[1]),
                        static_cast<int>(shape[2])};
    const int strides[] = {dims[1] * dims[2], dims[2], 1};
    check_call(api_.set_tensor(state_, CUDNN_DATA_FLOAT, 3, dims, strides),
               "cudnnSetTensorNdDescriptor");
    check_call(api_.weight_size(handle_.handle, rnn_, &weight_bytes_),
               "cudnnGetRNNWeightSpaceSize");
    check_call(api_.temp_sizes(handle_.handle, rnn_, mode(), x_, &work_bytes_, &reserve_bytes_),
               "cudnnGetRNNTempSpaceSizes");
  }

  // Where cuDNN wants each gate's part of each parameter; neighbours become one piece.
  void find_pieces() {
    const Buffer space(weight_bytes_, device_);  // only its address is looked at
    const std::vector<Shape> shapes = spec_.weights();
    for (std::size_t w = 0; w < shapes.size(); ++w) {
      const std::int64_t gates = spec_.gates(), count = shapes[w].numel() / gates;
      for (std::int64_t gate = 0; gate < gates; ++gate) {
        const bool hidden = w % 2 == 1, bias = w % 4 >= 2;
        void *matrix = nullptr, *vector = nullptr;
        check_call(api_.weight_params(handle_.handle, rnn_, static_cast<int>(w / 4), weight_bytes_,
                                      space.data(), static_cast<int>(gate + (hidden ? gates : 0)),
                                      matrix_, &matrix, vector_, &vector),
                   "cudnnGetRNNWeightParams");
        const auto* const at = static_cast<std::byte*>(bias ? vector : matrix);
        const std::int64_t to = (at - space.data()) / static_cast<std::int64_t>(sizeof(float));
        Piece* const before = gate > 0 ? &pieces_.back() : nullptr;
        if (before != nullptr && before->to + before->count == to) {
          before->count += count;
        } else {
          pieces_.push_back({w, gate * count, to, count});
        }
      }
    }
  }

  std::size_t reserve_space(std::size_t bytes) {
    const std::size_t offset = size_;
    size_ += (bytes + kSpaceAlignment - 1) / kSpaceAlignment * kSpaceAlignment;
    return offset;
  }

  void place() {
    weights_ = reserve_space(weight_bytes_);
    work_ = reserve_space(work_bytes_);
    if (!spec_.training) return;
    reserve_ = reserve_space(reserve_bytes_);
    dweights_ = reserve_space(weight_bytes_);
    dy_ = reserve_space(tensor_bytes(spec_.y()));
    dx_ = reserve_space(spec_.needs_dx ? 0 : tensor_bytes(spec_.x()));
  }

  void run_backward(Stream& s, const Tensor& x, const State& first, const Tensor& y, const void* dy,
                    const State& dlast, void* dx, const State& dfirst, std::byte* area) {
    const Current current(device_);
    const std::lock_guard lock(handle_.mutex);
    set_stream(s);
    check_call(api_.backward_data(handle_.handle, rnn_, nullptr, y_, y.data, dy, x_, dx, state_,
                                  first.h.data, dlast.h.data, dfirst.h.data, state_, first.c.data,
                                  dlast.c.data, dfirst.c.data, weight_bytes_, area + weights_,
                                  work_bytes_, area + work_, reserve_bytes_, area + reserve_),
               "cudnnRNNBackwardData_v8");
    check_call(
        api_.backward_weights(handle_.handle, rnn_, CUDNN_WGRAD_MODE_ADD, nullptr, x_, x.data,
                              state_, first.h.data, y_, y.data, weight_bytes_, area + dweights_,
                              work_bytes_, area + work_, reserve_bytes_, area + reserve_),
        "cudnnRNNBackwardWeights_v8");
  }

  const Device device_;
  const RecurrentSpec spec_;
  const Api& api_;
  Handle& handle_;
  Described<cudnnDropoutDescriptor_t> dropout_{api_.create_dropout, api_.destroy_dropout};
  Described<cudnnRNNDescriptor_t> rnn_{api_.create_rnn, api_.destroy_rnn};
  Described<cudnnRNNDataDescriptor_t> x_{api_.create_data, api_.destroy_data};
  Described<cudnnRNNDataDescriptor_t> y_{api_.create_data, api_.destroy_data};
  Described<cudnnTensorDescriptor_t> state_{api_.create_tensor, api_.destroy_tensor};
  Described<cudnnTensorDescriptor_t> matrix_{api_.create_tensor, api_.destroy_tensor};
  Described<cudnnTensorDescriptor_t> vector_{api_.create_tensor, api_.destroy_tensor};
  std::size_t weight_bytes_ = 0, work_bytes_ = 0, reserve_bytes_ = 0;
  std::vector<Piece> pieces_;
  // Places in scratch: parameters and cuDNN's two spaces, gradients, and stand-ins for what is not
  // given or not wanted.
  std::size_t weights_ = 0, work_ = 0, reserve_ = 0, dweights_ = 0, dy_ = 0, dx_ = 0, size_ = 0;
};

}  // namespace

std::unique_ptr<Recurrent> make_cudnn_recurrent(const Device& device, const RecurrentSpec& spec) {
  const Current current(device);
  return std::make_unique<CudnnRecurrent>(device, spec);
}

}  // namespace peal::cuda
