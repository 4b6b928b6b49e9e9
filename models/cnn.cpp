#include "models/cnn.h"

#include <algorithm>

#include "core/base/error.h"
#include "models/layers.h"

namespace peal {
namespace {

// A window must fit, or the op behind it would be the first to say so, without the field's name.
void check_fits(const char* field, std::int64_t window, std::int64_t height, std::int64_t width) {
  if (window < 1 || window > height || window > width)
    fail_input(field, window, " does not fit into (", height, ", ", width, "); allowed: 1 to ",
               std::min(height, width));
}

}  // namespace

ModelInfo cnn_info(const CnnSpec& spec) {
  check_fits("model.cnn.kernel", spec.kernel(), spec.height(), spec.width());
  check_fits("model.cnn.pool", spec.pool(), spec.height() - spec.kernel() + 1,
             spec.width() - spec.kernel() + 1);
  ModelInfo info;
  info.record_shape = {spec.channels(), spec.height(), spec.width()};
  info.classes = spec.classes();
  info.has_accuracy = true;
  return info;
}

void build_cnn(const CnnSpec& spec, std::int64_t batch, Graph& graph) {
  cnn_info(spec);
  const Value x = graph.input("x", {batch, spec.channels(), spec.height(), spec.width()});
  const Value labels = graph.input("labels", {batch}, DType::i32);
  const Value weight = graph.input("weight", {batch});

  Value y = conv2d_layer("conv", x, spec.filters(), spec.kernel());  // (B, filters, H', W')
  if (spec.batch_norm()) y = batch_norm_layer("norm", y, weight);
  const std::int64_t pool = spec.pool();
  y = max_pool2d(relu(y), {.kernel = {pool, pool}, .stride = {pool, pool}});
  y = relu(dense_layer("dense1", flatten(y), spec.hidden()));  // (B, hidden)
  if (spec.dropout() > 0) y = dropout(y, spec.dropout());
  const Value logits = dense_layer("dense2", y, spec.classes());  // (B, classes)

  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
  graph.set_metric("correct", count_correct(logits, labels, weight));
  graph.set_output("logits", logits);
}

}  // namespace peal
