#include "launcher/evaluation.h"

#include <algorithm>
#include <cmath>

#include "core/data/tokens.h"

namespace peal {

void add_stop_slot(Graph& graph) {
  graph.add_slot("stop", graph.input("stop", {1}));
}

Evaluation::Evaluation(const ModelSpec& spec, const ParameterTable& table,
                       std::shared_ptr<const Dataset> dataset,
                       std::shared_ptr<const Preprocess> preprocess, std::int64_t batch,
                       Precision precision, const Device& device, const ChooseAlgorithm& choose)
    : model_(model_info(spec)),
      dataset_(std::move(dataset)),
      preprocess_(std::move(preprocess)),
      batch_(std::min(batch, dataset_->size())),
      stop_(sizeof(float), device),
      stream_(device) {
  build_model(spec, batch_, graph_);
  add_stop_slot(graph_);
  plan_ = std::make_unique<Plan>(graph_, table, device, /*training=*/false,
                                 PlanOptions{.precision = precision, .choose = choose});
  const bool tokens = model_.vocabulary > 0;
  Shape x_shape{batch_};
  for (const std::int64_t dim : model_.record_shape) x_shape.push_back(dim);
  const Shape label_shape = tokens ? x_shape : Shape{batch_};
  const auto bytes = [](const Shape& shape) {  // of f32 or i32
    return static_cast<std::size_t>(shape.numel()) * sizeof(float);
  };
  x_ = Mirror(bytes(x_shape), device);
  labels_ = Mirror(bytes(label_shape), device);
  weight_ = Mirror(bytes({batch_}), device);
  plan_->set_input("x", {.data = x_.data(),
                         .shape = x_shape,
                         .dtype = tokens ? DType::i32 : DType::f32,
                         .device = device});
  plan_->set_input("labels", {.data = labels_.data(),
                              .shape = label_shape,
                              .dtype = tokens || model_.classes > 0 ? DType::i32 : DType::f32,
                              .device = device});
  plan_->set_input("weight", {.data = weight_.data(), .shape = {batch_}, .device = device});
  plan_->set_input("stop", {.data = stop_.data(), .shape = {1}, .device = device});
}

// Behind the last record: zeros of weight 0.
void Evaluation::fill(std::int64_t chunk) {
  const std::int64_t first = chunk * batch_;
  const std::int64_t records = std::min(batch_, dataset_->size() - first);
  if (records < batch_) {
    for (const Mirror* input : {&x_, &labels_, &weight_}) {
      std::fill_n(input->host(), input->size(), std::byte{0});
    }
  }
  for (std::int64_t i = 0; i < records; ++i) fill_record(i, first + i);
}

void Evaluation::fill_record(std::int64_t row, std::int64_t record) {
  const std::int64_t values = model_.record_shape.numel();
  reinterpret_cast<float*>(weight_.host())[row] = 1.0f;
  auto* integers = reinterpret_cast<std::int32_t*>(labels_.host());
  if (model_.vocabulary > 0) {
    read_tokens(*dataset_, record, model_.vocabulary,
                reinterpret_cast<std::int32_t*>(x_.host()) + row * values, integers + row * values);
    return;
  }
  const float label = dataset_->label(record);
  if (model_.classes > 0) {
    integers[row] = static_cast<std::int32_t>(label);
  } else {
    reinterpret_cast<float*>(labels_.host())[row] = label;
  }
  preprocess_->apply(*dataset_, record, /*seed=*/0, /*epoch=*/0, /*augment=*/false,
                     reinterpret_cast<float*>(x_.host()) + row * values);
}

std::map<std::string, double> Evaluation::run(Communicator& comm) {
  const std::int64_t records = dataset_->size();
  const std::int64_t chunks = (records + batch_ - 1) / batch_;
  // (loss, correct) of each chunk in a place of its own, so that adding the ranks' tables is exact.
  std::vector<double> sums(static_cast<std::size_t>(2 * chunks), 0.0);
  for (std::int64_t chunk = comm.rank(); chunk < chunks; chunk += comm.world_size()) {
    fill(chunk);
    for (Mirror* input : {&x_, &labels_, &weight_}) input->upload(stream_);
    plan_->forward(stream_, {}, nullptr);
    double* sum = &sums[static_cast<std::size_t>(2 * chunk)];
    sum[0] = plan_->slot_value(stream_, "loss");
    if (model_.has_accuracy) sum[1] = plan_->slot_value(stream_, "correct");
  }
  const Tensor table{.data = sums.data(), .shape = {2 * chunks}, .dtype = DType::f64};
  Stream host;
  comm.wait(host, comm.all_reduce(host, "evaluation", table, table, ReduceOp::sum));
  double loss = 0, correct = 0;
  for (std::size_t i = 0; i < sums.size(); i += 2) {
    loss += sums[i];
    correct += sums[i + 1];
  }
  std::map<std::string, double> metrics{{"test_loss", loss / static_cast<double>(records)}};
  if (model_.has_accuracy) metrics["test_accuracy"] = correct / static_cast<double>(records);
  if (model_.vocabulary > 0) metrics["test_perplexity"] = std::exp(metrics["test_loss"]);
  return metrics;
}

}  // namespace peal
