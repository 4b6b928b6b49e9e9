#include "core/kernels/cuda/cudnn.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
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
// Bytes; an engine that wants more is not taken. Attention's deterministic gradient keeps B * H * T
// * T halves.
constexpr std::int64_t kMostScratch = 1 << 30, kMostAttentionScratch = std::int64_t{8} << 30;
constexpr int kMostTensors = 9;

// What is computed, and by the engine of which number.
using Key = std::vector<std::int64_t>;
using Wanted = std::pair<Key, int>;

// A device's handle. It and the plans are used by one thread at a time: cuDNN asks for that with
// handles, and with the plans of some engines.
struct Cudnn {
  std::mutex mutex;
  cudnnHandle_t handle = nullptr;
  std::map<Wanted, std::unique_ptr<CudnnPlan>> plans;
  std::map<Wanted, std::string> refused;     // why
  std::map<Wanted, std::int64_t> positions;  // of engines in cuDNN's list
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

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

class GraphPlan final : public CudnnPlan {
 public:
  GraphPlan(const Device& device, Cudnn& cudnn, std::unique_ptr<Graph> graph,
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
      if (address % kCudnnAlignment != 0)
        fail_internal("cuDNN", "a tensor is not aligned to ", kCudnnAlignment, " bytes");
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
    if (status.is_bad()) fail_internal("cuDNN", status.get_message());
  }

 private:
  Device device_;
  Cudnn& cudnn_;
  std::unique_ptr<Graph> graph_;
  std::int64_t workspace_;
};

// ---- What is computed, as cuDNN wants it told -------------------------------------------------

using Sizes = std::vector<std::int64_t>;

fe::DataType_t type_of(DType dtype) {
  if (dtype == DType::bf16) return fe::DataType_t::BFLOAT16;
  return dtype == DType::f16 ? fe::DataType_t::HALF : fe::DataType_t::FLOAT;
}

// Of a shape (B, C, H, W) that lies so, or as (B, H, W, C).
Sizes strides_of(const Shape& shape, bool channels_last) {
  const std::int64_t record = shape[1] * shape[2] * shape[3];
  if (channels_last) return {record, 1, shape[3] * shape[1], shape[1]};
  return {record, shape[2] * shape[3], shape[3], 1};
}

Sizes pair(const std::int64_t (&values)[2]) {
  return {values[0], values[1]};
}

// Tensors bear the numbers 1, 2, ... in the order in which CudnnPlan::run takes them.
class Description {
 public:
  explicit Description(DType stored) : stored_(stored), graph_(std::make_unique<Graph>()) {
    graph_->set_io_data_type(type_of(stored))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    // Plans outlive every CUDA graph.
    graph_->set_cuda_graph_retention(fe::CudaGraphRetention_t::NONE);
  }

  TensorAttributes input(const Sizes& sizes, const Sizes& strides, DType dtype) {
    return graph_->tensor(fe::graph::Tensor_attributes()
                              .set_dim(sizes)
                              .set_stride(strides)
                              .set_data_type(type_of(dtype))
                              .set_alignment(kCudnnAlignment)
                              .set_uid(++tensors_));
  }
  void output(const TensorAttributes& tensor, const Sizes& sizes, const Sizes& strides,
              DType dtype) {
    tensor->set_dim(sizes).set_stride(strides).set_data_type(type_of(dtype));
    tensor->set_output(true).set_alignment(kCudnnAlignment).set_uid(++tensors_);
  }

  DType stored() const { return stored_; }
  Graph& graph() { return *graph_; }
  std::unique_ptr<Graph> take() { return std::move(graph_); }

 private:
  DType stored_;
  std::unique_ptr<Graph> graph_;
  std::int64_t tensors_ = 0;
};

// The same with the shapes of a convolution's tensors.
class ConvDescription : public Description {
 public:
  ConvDescription(const Conv2dSpec& spec, const ConvForm& form)
      : Description(spec.stored), channels_last_(form.channels_last) {}

  TensorAttributes input(const Shape& shape) { return input(shape, stored()); }
  TensorAttributes input(const Shape& shape, DType dtype) {
    return Description::input(shape.vector(), strides_of(shape, channels_last_), dtype);
  }
  void output(const TensorAttributes& tensor, const Shape& shape, DType dtype) {
    Description::output(tensor, shape.vector(), strides_of(shape, channels_last_), dtype);
  }
  // A result in between: never stored.
  void shape_of(const TensorAttributes& tensor, const Shape& shape) const {
    tensor->set_dim(shape.vector()).set_stride(strides_of(shape, channels_last_));
  }

 private:
  bool channels_last_;
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

void describe_forward(const Conv2dSpec& spec, bool fused, ConvDescription& description) {
  Graph& graph = description.graph();
  const TensorAttributes x = description.input(spec.x), w = description.input(spec.w);
  const TensorAttributes b =
      fused && spec.bias ? description.input({1, spec.w[0], 1, 1}, DType::f32) : TensorAttributes();
  TensorAttributes y =
      graph.conv_fprop(x, w, attributes_of<fe::graph::Conv_fprop_attributes>(spec));
  if (b != nullptr) {
    description.shape_of(y, spec.y());
    y = pointwise(graph, fe::PointwiseMode_t::ADD, y, b);
  }
  if (fused && spec.activation == Activation::relu) {
    description.shape_of(y, spec.y());
    y = pointwise(graph, fe::PointwiseMode_t::RELU_FWD, y, nullptr);
  }
  description.output(y, spec.y(), spec.stored);
}

std::unique_ptr<Graph> describe(const Conv2dSpec& spec, ConvPass pass, const ConvForm& form) {
  ConvDescription description(spec, form);
  Graph& graph = description.graph();
  switch (pass) {
    case ConvPass::forward:
      describe_forward(spec, form.fused, description);
      break;
    case ConvPass::backward_data: {
      const TensorAttributes dy = description.input(spec.y()), w = description.input(spec.w);
      description.output(
          graph.conv_dgrad(dy, w, attributes_of<fe::graph::Conv_dgrad_attributes>(spec)), spec.x,
          spec.stored);
      break;
    }
    case ConvPass::backward_weights: {
      const TensorAttributes x = description.input(spec.x), dy = description.input(spec.y());
      description.output(
          graph.conv_wgrad(dy, x, attributes_of<fe::graph::Conv_wgrad_attributes>(spec)), spec.w,
          form.dw);
      break;
    }
  }
  return description.take();
}

// Heads as the batch and the columns of qkv (B, T, 3*C) and y (B, T, C) hold them.
struct Heads {
  explicit Heads(const AttentionSpec& a)
      : sizes{a.batch, a.heads, a.time, a.width / a.heads},
        of_qkv{a.time * 3 * a.width, a.width / a.heads, 3 * a.width, 1},
        of_y{a.time * a.width, a.width / a.heads, a.width, 1},
        row_sizes{a.batch, a.heads, a.time, 1},
        of_rows{a.heads * a.time, a.time, 1, 1},
        scale(1.0f / std::sqrt(static_cast<float>(a.width / a.heads))) {}
  Sizes sizes, of_qkv, of_y, row_sizes, of_rows;
  float scale;
};

std::unique_ptr<Graph> describe_attention(const AttentionSpec& spec) {
  const Heads heads(spec);
  Description description(spec.stored);
  const auto part = [&] { return description.input(heads.sizes, heads.of_qkv, spec.stored); };
  const TensorAttributes q = part(), k = part(), v = part();
  const auto [y, log_sums] = description.graph().sdpa(
      q, k, v,
      fe::graph::SDPA_attributes().set_generate_stats(true).set_causal_mask(true).set_attn_scale(
          heads.scale));
  description.output(y, heads.sizes, heads.of_y, spec.stored);
  description.output(log_sums, heads.row_sizes, heads.of_rows, DType::f32);
  return description.take();
}

std::unique_ptr<Graph> describe_attention_backward(const AttentionSpec& spec) {
  const Heads heads(spec);
  Description description(spec.stored);
  const auto part = [&] { return description.input(heads.sizes, heads.of_qkv, spec.stored); };
  const TensorAttributes q = part(), k = part(), v = part();
  const TensorAttributes y = description.input(heads.sizes, heads.of_y, spec.stored);
  const TensorAttributes dy = description.input(heads.sizes, heads.of_y, spec.stored);
  const TensorAttributes log_sums = description.input(heads.row_sizes, heads.of_rows, DType::f32);
  const auto gradients =
      description.graph().sdpa_backward(q, k, v, y, dy, log_sums,
                                        fe::graph::SDPA_backward_attributes()
                                            .set_causal_mask(true)
                                            .set_attn_scale(heads.scale)
                                            .set_deterministic_algorithm(spec.deterministic));
  for (const TensorAttributes& gradient : gradients)
    description.output(gradient, heads.sizes, heads.of_qkv, spec.stored);
  return description.take();
}

std::unique_ptr<Graph> describe(const AttentionSpec& spec, bool backward) {
  return backward ? describe_attention_backward(spec) : describe_attention(spec);
}

// ---- The choice of an engine ------------------------------------------------------------------

using Note = fe::NumericalNote_t;

struct Rules {
  std::vector<fe::HeurMode_t> modes = {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK};
  std::vector<Note> refused;
  std::int64_t most_scratch = kMostScratch;
};

// Tensor cores round f32 operands to tf32, which is the least that cuDNN has for f32 tensors.
Rules conv_rules(const Conv2dSpec& spec, ConvPass pass, const ConvForm& form) {
  Rules rules;
  rules.refused = {Note::REDUCED_PRECISION_REDUCTION};
  if (spec.deterministic) {
    for (const Note note :
         {Note::NONDETERMINISTIC, Note::FFT, Note::WINOGRAD, Note::WINOGRAD_TILE_4x4,
          Note::WINOGRAD_TILE_6x6, Note::WINOGRAD_TILE_13x13})
      rules.refused.push_back(note);
  }
  if (spec.stored == DType::f32 && spec.precision == Precision::f32) {
    rules.refused.push_back(Note::TENSOR_CORE);
    rules.refused.push_back(Note::DOWN_CONVERT_INPUTS);
  }
  // What is always there may be slow, and there is another way.
  if (pass == ConvPass::backward_weights && form.dw != spec.stored)
    rules.modes = {fe::HeurMode_t::A};
  return rules;
}

// What computes attention's gradient may bear the note that it is not deterministic whatever the
// graph asks of it, so that the second rule has no notes: forward has no sums that could vary, and
// backward's graph asks for the deterministic algorithm.
std::vector<Rules> attention_rules(const AttentionSpec& spec) {
  Rules strict, plain;
  if (spec.deterministic) strict.refused = {Note::NONDETERMINISTIC};
  strict.most_scratch = plain.most_scratch = kMostAttentionScratch;
  return {strict, plain};
}

// In the heuristics' order, then what cuDNN lists as always there, those engines that are allowed
// and build: the one of that number. `position`: in cuDNN's list, of the one before, or -1 where
// there is none or that is not known; then its own.
fe::error_t build_engine(Graph& graph, int number, std::int64_t& position) {
  int found = position < 0 ? -1 : number - 1;
  while (found < number && ++position < graph.get_execution_plan_count())
    found += graph.build_plan_at_index(position).is_good();  // what is built last is what runs
  if (found == number) return {};
  return {fe::error_code_t::GRAPH_EXECUTION_PLAN_CREATION_FAILED,
          cat(found + 1, " of its ", graph.get_execution_plan_count(),
              " engines are allowed here and can be built")};
}

fe::error_t create_plans(Graph& graph, cudnnHandle_t handle, const Rules& rules) {
  fe::error_t status = graph.validate();
  if (status.is_good()) status = graph.build_operation_graph(handle);
  if (status.is_good()) status = graph.create_execution_plans(rules.modes);
  if (status.is_good()) {
    graph.deselect_numeric_notes(rules.refused).deselect_workspace_greater_than(rules.most_scratch);
  }
  return status;
}

fe::error_t choose_engine(Graph& graph, Cudnn& cudnn, const Rules& rules, const Wanted& wanted,
                          std::int64_t& workspace) {
  fe::error_t status = create_plans(graph, cudnn.handle, rules);
  if (status.is_bad()) return status;
  const auto before = cudnn.positions.find({wanted.first, wanted.second - 1});
  std::int64_t position = before == cudnn.positions.end() ? -1 : before->second;
  status = build_engine(graph, wanted.second, position);
  if (status.is_good()) cudnn.positions[wanted] = position;
  return status.is_good() ? graph.get_workspace_size(workspace) : status;
}

Key key_of(const Conv2dSpec& spec, ConvPass pass, const ConvForm& form) {
  const bool fused = pass == ConvPass::forward && form.fused;
  Key key = {static_cast<std::int64_t>(pass),
             fused,
             spec.groups,
             fused && spec.bias,
             fused && spec.activation == Activation::relu,
             spec.precision != Precision::f32,
             spec.deterministic,
             static_cast<std::int64_t>(spec.stored),
             form.channels_last,
             static_cast<std::int64_t>(form.dw)};
  key.insert(key.end(), spec.x.begin(), spec.x.end());
  key.insert(key.end(), spec.w.begin(), spec.w.end());
  for (const auto* values : {spec.stride, spec.padding, spec.dilation}) {
    key.insert(key.end(), values, values + 2);
  }
  return key;
}

Key key_of(const AttentionSpec& spec, bool backward) {
  constexpr std::int64_t kAttention = 100;  // no ConvPass
  return {kAttention + backward,
          spec.batch,
          spec.time,
          spec.heads,
          spec.width,
          spec.deterministic,
          static_cast<std::int64_t>(spec.stored)};
}

// The plan that is wanted, made of describe()'s graph by the first of the rules that gives one.
template <typename Describe>
CudnnPlan* find_plan(const Device& device, const Wanted& wanted, const std::vector<Rules>& rules,
                     const Describe& describe, std::string& why) try {
  Cudnn& cudnn = cudnn_of(device);
  const Current current(device);
  const std::lock_guard lock(cudnn.mutex);
  if (const auto known = cudnn.plans.find(wanted); known != cudnn.plans.end())
    return known->second.get();
  // Behind a number that is not there come no others.
  for (const int number : {wanted.second, std::max(0, wanted.second - 1)}) {
    const auto known = cudnn.refused.find({wanted.first, number});
    if (known == cudnn.refused.end()) continue;
    why = cudnn.refused[wanted] = known->second;
    return nullptr;
  }
  std::string message;
  for (const Rules& rule : rules) {
    std::unique_ptr<Graph> graph = describe();
    std::int64_t workspace = 0;
    fe::error_t status = choose_engine(*graph, cudnn, rule, wanted, workspace);
    if (status.is_good()) {
      auto plan = std::make_unique<GraphPlan>(device, cudnn, std::move(graph), workspace);
      return cudnn.plans.emplace(wanted, std::move(plan)).first->second.get();
    }
    message = status.get_message();  // its other lines list engines
  }
  why = cudnn.refused[wanted] =
      cat("cuDNN ", fe::detail::get_backend_version_string(), ": ", first_line(message));
  return nullptr;
} catch (const Error&) {
  throw;
} catch (const std::exception& error) {
  fail_internal("cuDNN", error.what());
}

// ---- Without a device --------------------------------------------------------------------------

void set_chip(Graph& graph, const std::string& chip) {
  auto properties = std::make_shared<fe::DeviceProperties>();
  fe::error_t status = properties->deserialize({chip.begin(), chip.end()});
  if (status.is_bad()) fail_input("cuDNN", "the chip's properties: ", status.get_message());
  graph.set_device_properties(properties);
}

// Of the plan that was built last.
CudnnEngine engine_at(const Graph& graph, std::int64_t position) {
  CudnnEngine engine;
  std::int64_t workspace = 0;
  fe::error_t status = graph.get_plan_name_at_index(position, engine.name);
  if (status.is_good()) status = graph.get_workspace_size(workspace);
  if (status.is_bad()) fail_internal("cuDNN", status.get_message());
  engine.scratch_bytes = static_cast<std::size_t>(workspace);
  return engine;
}

}  // namespace

CudnnPlan* find_conv_plan(const Device& device, const Conv2dSpec& spec, ConvPass pass,
                          const ConvForm& form, std::string& why) {
  return find_plan(
      device, {key_of(spec, pass, form), spec.algorithm(pass)}, {conv_rules(spec, pass, form)},
      [&] { return describe(spec, pass, form); }, why);
}

CudnnPlan* find_attention_plan(const Device& device, const AttentionSpec& spec, bool backward,
                               std::string& why) {
  return find_plan(
      device, {key_of(spec, backward), 0}, attention_rules(spec),
      [&] { return describe(spec, backward); }, why);
}

std::string cudnn_version(const Device& device) {
  try {
    load_cudnn(device);
  } catch (const Error&) {
    return {};
  }
  return fe::detail::get_backend_version_string();
}

std::vector<CudnnEngine> conv_engines(const std::string& chip, const Conv2dSpec& spec,
                                      ConvPass pass, const ConvForm& form, int most,
                                      std::string& why) {
  load_cudnn(kCpu);
  const std::unique_ptr<Graph> graph = describe(spec, pass, form);
  set_chip(*graph, chip);
  fe::error_t status = create_plans(*graph, /*handle=*/nullptr, conv_rules(spec, pass, form));
  std::vector<CudnnEngine> engines;
  std::int64_t position = -1;
  for (int number = 0; status.is_good() && number < most; ++number) {
    status = build_engine(*graph, number, position);
    if (status.is_good()) engines.push_back(engine_at(*graph, position));
  }
  if (status.is_bad()) why = first_line(status.get_message());
  return engines;
}

}  // namespace peal::cuda
