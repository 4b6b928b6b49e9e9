#include "launcher/evaluation.h"

#include <algorithm>

namespace peal {

void add_stop_slot(Graph& graph) {
  graph.add_slot("stop", graph.input("stop", {1}));
}

Evaluation::Evaluation(const ModelSpec& spec, const ParameterTable& table,
                       std::shared_ptr<const Dataset> dataset,
                       std::shared_ptr<const Preprocess> preprocess, std::int64_t batch,
                       Precision precision, const Device& device)
    : model_(model_info(spec)),
      dataset_(std::move(dataset)),
      preprocess_(std::move(preprocess)),
      batch_(std::min(batch, dataset_->size())),
      stop_(sizeof(float), device),
      stream_(device) {
  build_model(spec, batch_, graph_);
  add_stop_slot(graph_);
  plan_ = std::make_unique<Plan>(graph_, table, device, /*training=*/false,
                                 PlanOptions{.precision = precision});
  Shape x_shape{batch_};
  for (const std::int64_t dim : model_.record_shape) x_shape.push_back(dim);
  x_ = Mirror(static_cast<std::size_t>(x_shape.numel()) * sizeof(float), device);
  labels_ = Mirror(static_cast<std::size_t>(batch_) * sizeof(float), device);
  weight_ = Mirror(static_cast<std::size_t>(batch_) * sizeof(float), device);
  plan_->set_input("x", {.data = x_.data(), .shape = x_shape, .device = device});
  plan_->set_input("labels", {.data = labels_.data(),
                              .shape = {batch_},
                              .dtype = model_.classes > 0 ? DType::i32 : DType::f32,
                              .device = device});
  plan_->set_input("weight", {.data = weight_.data(), .shape = {batch_}, .device = device});
  plan_->set_input("stop", {.data = stop_.data(), .shape = {1}, .device = device});
}

// Behind the last record: zeros of weight 0.
void Evaluation::fill(std::int64_t chunk) {
  const std::int64_t values = model_.record_shape.numel();
  for (std::int64_t i = 0; i < batch_; ++i) {
    const std::int64_t record = chunk * batch_ + i;
    const bool real = record < dataset_->size();
    float* x = reinterpret_cast<float*>(x_.host()) + i * values;
    const float label = real ? dataset_->label(record) : 0.0f;
    reinterpret_cast<float*>(weight_.host())[i] = real ? 1.0f : 0.0f;
    if (model_.classes > 0) {
      reinterpret_cast<std::int32_t*>(labels_.host())[i] = static_cast<std::int32_t>(label);
    } else {
      reinterpret_cast<float*>(labels_.host())[i] = label;
    }
    if (real) {
      preprocess_->apply(*dataset_, record, /*seed=*/0, /*epoch=*/0, /*augment=*/false, x);
    } else {
      std::fill(x, x + values, 0.0f);
    }
  }
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
  return metrics;
}

}  // namespace peal
