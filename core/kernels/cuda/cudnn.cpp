#include "core/kernels/cuda/cudnn.h"

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/base/error.h"
#include "core/device/cuda/cuda_device.h"
#include "core/device/cuda/library.h"

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

// Where the frontend looks for cuDNN's functions.
void* cudnn_frontend::cudnn_dlhandle = nullptr;

namespace peal::cuda {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using TensorAttributes = std::shared_ptr<fe::graph::Tensor_attributes>;

constexpr std::size_t kScratchAlignment = 256;
constexpr std::int64_t kMostScratch = 1 << 30;  // bytes; an engine that wants more is not taken
constexpr int kMostTensors = 4;

// A device's handle. It and the plans are used by one thread at a time: cuDNN asks for that with
// handles, and with the plans of some engines.
struct Cudnn {
  std::mutex mutex;
  cudnnHandle_t handle = nullptr;
  std::map<std::vector<std::int64_t>, std::unique_ptr<ConvPlan>> plans;
  std::map<std::vector<std::int64_t>, std::string> refused;  // why
};

void load_cudnn(const Device& device) {
  static std::once_flag once;
  std::call_once(
      once, [&] { fe::cudnn_dlhandle = open_library(device, cat("libcudnn.so.", CUDNN_MAJOR)); });
}

void check(cudnnStatus_t status, const char* call, const Device& device) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  fail_internal(to_string(device), call, ": ", fe::detail::get_error_string(status), ": ",
                fe::detail::get_last_error_string_());
}

// Never freed: at the end of the program CUDA may be gone before it.
Cudnn& cudnn_of(const Device& device) {
  static std::mutex mutex;
  static auto& of_index = *new std::map<int, std::unique_ptr<Cudnn>>;
  load_cudnn(device);
  const std::lock_guard lock(mutex);
  std::unique_ptr<Cudnn>& cudnn = of_index[device.index];
  if (cudnn == nullptr) {
    const Current current(device);
    auto made = std::make_unique<Cudnn>();
    check(fe::detail::create_handle(&made->handle), "cudnnCreate", device);
    cudnn = std::move(made);
  }
  return *cudnn;
}

class CudnnConvPlan final : public ConvPlan {
 public:
  CudnnConvPlan(const Device& device, Cudnn& cudnn, std::unique_ptr<Graph> graph,
                std::int64_t workspace)
      : device_(device), cudnn_(cudnn), graph_(std::move(graph)), workspace_(workspace) {}

  std::size_t scratch_bytes() const override {
    return workspace_ == 0 ? 0 : static_cast<std::size_t>(workspace_) + kScratchAlignment;
  }

  void run(Stream& s, std::initializer_list<const Tensor*> tensors,
           const Tensor& scratch) override {
    std::array<void*, kMostTensors> data{};
    int count = 0;
    for (const Tensor* tensor : tensors) {
      const auto address = reinterpret_cast<std::uintptr_t>(tensor->data);
      if (address % kConvAlignment != 0)
        fail_internal("conv2d", "a tensor is not aligned to ", kConvAlignment, " bytes");
      data[static_cast<std::size_t>(count++)] = tensor->data;
    }
    const auto start = reinterpret_cast<std::uintptr_t>(scratch.data);
    const std::uintptr_t up =
        (start + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    void* const workspace = workspace_ == 0 ? nullptr : scratch.as<std::byte>() + (up - start);

    const Current current(device_);
    const std::lock_guard lock(cudnn_.mutex);
    check(fe::detail::set_stream(cudnn_.handle, static_cast<cudaStream_t>(s.handle())),
          "cudnnSetStream", device_);
    fe::error_t status = graph_->execute(cudnn_.handle, data.data(), count, workspace);
    if (status.is_bad()) fail_internal("conv2d", "cuDNN: ", status.get_message());
  }

 private:
  Device device_;
  Cudnn& cudnn_;
  std::unique_ptr<Graph> graph_;
  std::int64_t workspace_;
};

// ---- What is computed, as cuDNN wants it told -------------------------------------------------

std::vector<std::int64_t> row_major_strides(const Shape& shape) {
  std::vector<std::int64_t> strides(static_cast<std::size_t>(shape.rank()), 1);
  for (std::size_t i = strides.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * shape[static_cast<int>(i)];
  }
  return strides;
}

std::vector<std::int64_t> pair(const std::int64_t (&values)[2]) {
  return {values[0], values[1]};
}

// Tensors bear the numbers 1, 2, ... in the order in which ConvPlan::run takes them.
class Description {
 public:
  Description() : graph_(std::make_unique<Graph>()) {
    graph_->set_io_data_type(fe::DataType_t::FLOAT)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    // Plans outlive every CUDA graph.
    graph_->set_cuda_graph_retention(fe::CudaGraphRetention_t::NONE);
  }

  TensorAttributes input(const Shape& shape) {
    return graph_->tensor(fe::graph::Tensor_attributes()
                              .set_dim(shape.vector())
                              .set_stride(row_major_strides(shape))
                              .set_alignment(kConvAlignment)
                              .set_uid(++tensors_));
  }

  // A result in between: never stored.
  static void shape_of(const TensorAttributes& tensor, const Shape& shape) {
    tensor->set_dim(shape.vector()).set_stride(row_major_strides(shape));
  }

  void output(const TensorAttributes& tensor, const Shape& shape) {
    shape_of(tensor, shape);
    tensor->set_output(true).set_alignment(kConvAlignment).set_uid(++tensors_);
  }

  Graph& graph() { return *graph_; }
  std::unique_ptr<Graph> take() { return std::move(graph_); }

 private:
  std::unique_ptr<Graph> graph_;
  std::int64_t tensors_ = 0;
};

template <typename Attributes>
Attributes attributes_of(const Conv2dSpec& spec) {
  return Attributes()
      .set_convolution_mode(fe::ConvolutionMode_t::CROSS_CORRELATION)
      .set_padding(pair(spec.padding))
      .set_stride(pair(spec.stride))
      .set_dilation(pair(spec.dilation));
}

TensorAttributes pointwise(Graph& graph, fe::PointwiseMode_t mode, const TensorAttributes& x,
                           const TensorAttributes& y) {
  const auto attributes = fe::graph::Pointwise_attributes().set_mode(mode);
  return y == nullptr ? graph.pointwise(x, attributes) : graph.pointwise(x, y, attributes);
}

void describe_forward(const Conv2dSpec& spec, bool fused, Description& description) {
  Graph& graph = description.graph();
  const TensorAttributes x = description.input(spec.x), w = description.input(spec.w);
  const TensorAttributes b =
      fused && spec.bias ? description.input({1, spec.w[0], 1, 1}) : TensorAttributes();
  TensorAttributes y =
      graph.conv_fprop(x, w, attributes_of<fe::graph::Conv_fprop_attributes>(spec));
  if (b != nullptr) {
    Description::shape_of(y, spec.y());
    y = pointwise(graph, fe::PointwiseMode_t::ADD, y, b);
  }
  if (fused && spec.activation == Activation::relu) {
    Description::shape_of(y, spec.y());
    y = pointwise(graph, fe::PointwiseMode_t::RELU_FWD, y, nullptr);
  }
  description.output(y, spec.y());
}

std::unique_ptr<Graph> describe(const Conv2dSpec& spec, ConvPass pass) {
  Description description;
  Graph& graph = description.graph();
  switch (pass) {
    case ConvPass::forward:
    case ConvPass::forward_fused:
      describe_forward(spec, pass == ConvPass::forward_fused, description);
      break;
    case ConvPass::backward_data: {
      const TensorAttributes dy = description.input(spec.y()), w = description.input(spec.w);
      description.output(
          graph.conv_dgrad(dy, w, attributes_of<fe::graph::Conv_dgrad_attributes>(spec)), spec.x);
      break;
    }
    case ConvPass::backward_weights: {
      const TensorAttributes x = description.input(spec.x), dy = description.input(spec.y());
      description.output(
          graph.conv_wgrad(dy, x, attributes_of<fe::graph::Conv_wgrad_attributes>(spec)), spec.w);
      break;
    }
  }
  return description.take();
}

// ---- The choice of an engine ------------------------------------------------------------------

// The heuristics' order, then what cuDNN lists as always there; the first that is allowed and
// builds.
// Tensor cores round f32 operands to tf32, which is the least that cuDNN has for f32 tensors.
fe::error_t choose_engine(Graph& graph, cudnnHandle_t handle, bool tensor_cores,
                          std::int64_t& workspace) {
  fe::error_t status = graph.validate();
  if (status.is_good()) status = graph.build_operation_graph(handle);
  if (status.is_good())
    status = graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
  if (status.is_bad()) return status;
  using Note = fe::NumericalNote_t;
  std::vector<Note> refused = {
      Note::NONDETERMINISTIC,   Note::REDUCED_PRECISION_REDUCTION, Note::FFT,
      Note::WINOGRAD,           Note::WINOGRAD_TILE_4x4,           Note::WINOGRAD_TILE_6x6,
      Note::WINOGRAD_TILE_13x13};
  if (!tensor_cores) {
    refused.push_back(Note::TENSOR_CORE);
    refused.push_back(Note::DOWN_CONVERT_INPUTS);
  }
  graph.deselect_numeric_notes(refused).deselect_workspace_greater_than(kMostScratch);
  status = graph.build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE);
  return status.is_good() ? graph.get_workspace_size(workspace) : status;
}

std::vector<std::int64_t> key_of(const Conv2dSpec& spec, ConvPass pass) {
  const bool fused = pass == ConvPass::forward_fused;
  std::vector<std::int64_t> key = {static_cast<std::int64_t>(pass), spec.groups, fused && spec.bias,
                                   fused && spec.activation == Activation::relu,
                                   spec.precision != Precision::f32};
  key.insert(key.end(), spec.x.begin(), spec.x.end());
  key.insert(key.end(), spec.w.begin(), spec.w.end());
  for (const auto* values : {spec.stride, spec.padding, spec.dilation}) {
    key.insert(key.end(), values, values + 2);
  }
  return key;
}

}  // namespace

ConvPlan* find_conv_plan(const Device& device, const Conv2dSpec& spec, ConvPass pass,
                         std::string& why) try {
  Cudnn& cudnn = cudnn_of(device);
  const std::vector<std::int64_t> key = key_of(spec, pass);
  const Current current(device);
  const std::lock_guard lock(cudnn.mutex);
  if (const auto known = cudnn.plans.find(key); known != cudnn.plans.end())
    return known->second.get();
  if (const auto known = cudnn.refused.find(key); known != cudnn.refused.end()) {
    why = known->second;
    return nullptr;
  }
  std::unique_ptr<Graph> graph = describe(spec, pass);
  std::int64_t workspace = 0;
  fe::error_t status =
      choose_engine(*graph, cudnn.handle, spec.precision != Precision::f32, workspace);
  if (status.is_bad()) {
    const std::string message = status.get_message();  // its other lines list engines
    why = cudnn.refused[key] = cat("cuDNN ", fe::detail::get_backend_version_string(), ": ",
                                   message.substr(0, message.find('\n')));
    return nullptr;
  }
  auto plan = std::make_unique<CudnnConvPlan>(device, cudnn, std::move(graph), workspace);
  return cudnn.plans.emplace(key, std::move(plan)).first->second.get();
} catch (const Error&) {
  throw;
} catch (const std::exception& error) {
  fail_internal("conv2d", "cuDNN: ", error.what());
}

}  // namespace peal::cuda
