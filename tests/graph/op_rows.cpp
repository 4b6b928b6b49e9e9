#include "tests/graph/op_rows.h"

#include <cmath>
#include <numbers>

namespace peal {
namespace {

using Values = std::vector<Value>;
namespace ref = reference;

std::function<Value(const Values&)> convolution(const Conv2dOptions& options) {
  return
      [=](const Values& v) { return conv2d(v[0], v[1], v.size() == 3 ? v[2] : Value(), options); };
}

OpRow conv_row(const std::string& name, const Conv2dOptions& options) {
  return {name, convolution(options), ref::conv2d(options)};
}

OpRow max_row(const std::string& name, const PoolOptions& options) {
  return {name, [=](const Values& v) { return max_pool2d(v[0], options); },
          ref::pool2d(PoolKind::max, options)};
}

OpRow avg_row(const std::string& name, const PoolOptions& options) {
  return {name, [=](const Values& v) { return avg_pool2d(v[0], options); },
          ref::pool2d(PoolKind::average, options)};
}

OpRow pointwise_row(const std::string& name, std::function<Value(Value)> op,
                    std::function<double(double)> f) {
  return {name, [=](const Values& v) { return op(v[0]); }, ref::pointwise(std::move(f))};
}

OpRow binary_row(const std::string& name, Value (*op)(Value, Value),
                 std::function<double(double, double)> f) {
  return {name, [=](const Values& v) { return op(v[0], v.back()); }, ref::binary(std::move(f))};
}

OpRow matmul_row(const std::string& name) {
  return {name, [](const Values& v) { return matmul(v[0], v[1]); }, ref::matmul()};
}

OpRow dense_row(const std::string& name) {
  return {name, [](const Values& v) { return dense(v[0], v[1], v.size() == 3 ? v[2] : Value()); },
          ref::dense()};
}

OpRow batch_norm_row(const std::string& name) {
  return {name, [](const Values& v) { return batch_norm("norm", v[0], v[1], v[2], v[3]); },
          ref::batch_norm(1e-5)};
}

std::vector<OpRow> linear_rows() {
  return {
      matmul_row("matmul"),
      matmul_row("matmul_batched"),
      matmul_row("matmul_shared"),
      dense_row("dense"),
      dense_row("dense_no_bias"),
      {"affine", [](const Values& v) { return affine(v[0], v[1], v[2]); }, ref::affine()},
      conv_row("conv2d", {}),
      conv_row("conv2d_no_bias", {}),
      conv_row("conv2d_stride_padding", {.stride = {2, 1}, .padding = {1, 2}}),
      conv_row("conv2d_groups", {.groups = 2}),
      conv_row("conv2d_depthwise", {.padding = {1, 1}, .groups = 3}),
      conv_row("conv2d_dilation", {.padding = {0, 1}, .dilation = {2, 3}}),
      max_row("max_pool2d", {}),
      max_row("max_pool2d_padding", {.kernel = {3, 3}, .stride = {2, 1}, .padding = {1, 1}}),
      avg_row("avg_pool2d", {}),
      avg_row("avg_pool2d_padding", {.kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 1}}),
      avg_row("avg_pool2d_inside",
              {.kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 1}, .include_padding = false}),
      {"global_avg_pool2d", [](const Values& v) { return global_avg_pool2d(v[0]); },
       ref::reduce({2, 3}, {2, 3}, /*mean=*/true)},
  };
}

std::vector<OpRow> pointwise_rows() {
  const auto plus = [](double x, double y) { return x + y; };
  const auto times = [](double x, double y) { return x * y; };
  const RandomKey key{kRowPass.seed, kRowPass.step, kRowPass.virtual_rank,
                      std::uint64_t{0x6f70} << 48};
  return {
      pointwise_row("relu", relu, [](double x) { return x > 0 ? x : 0; }),
      pointwise_row(
          "leaky_relu", [](Value x) { return leaky_relu(x, 0.125f); },
          [](double x) { return x > 0 ? x : 0.125 * x; }),
      pointwise_row("gelu", gelu,
                    [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }),
      pointwise_row("gelu_tanh", gelu_tanh,
                    [](double x) {
                      const double u = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
                      return 0.5 * x * (1 + std::tanh(u));
                    }),
      pointwise_row("sigmoid", sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }),
      pointwise_row(
          "tanh", [](Value x) { return tanh(x); }, [](double x) { return std::tanh(x); }),
      binary_row("add", add, plus),
      binary_row("add_broadcast", add, plus),
      binary_row("mul", mul, times),
      binary_row("mul_broadcast", mul, times),
      binary_row("square", mul, times),  // one value twice
      pointwise_row(
          "scale", [](Value x) { return scale(x, -1.5f); }, [](double x) { return -1.5 * x; }),
      {"dropout", [](const Values& v) { return dropout(v[0], 0.25f); }, ref::dropout(0.25f, key)},
  };
}

std::vector<OpRow> shape_rows() {
  return {
      {"reshape",
       [](const Values& v) {
         return reshape(v[0], {0, 4});
       },
       ref::reshape({3, 4})},
      {"flatten", [](const Values& v) { return flatten(v[0]); }, ref::reshape({2, 6})},
      {"transpose",
       [](const Values& v) {
         return transpose(v[0], {2, 0, 3, 1});
       },
       ref::transpose({2, 0, 3, 1})},
      {"concat", [](const Values& v) { return concat(v, 1); }, ref::concat(1)},
      {"slice", [](const Values& v) { return slice(v[0], 1, 1, 4); }, ref::slice(1, 1, 4)},
      {"reduce_sum",
       [](const Values& v) {
         return reduce_sum(v[0], {0, 2});
       },
       ref::reduce({0, 2}, {4}, /*mean=*/false)},
      {"reduce_sum_keep", [](const Values& v) { return reduce_sum(v[0], {-2}, true); },
       ref::reduce({1}, {3, 1, 5}, /*mean=*/false)},
      {"reduce_sum_all",
       [](const Values& v) {
         return reduce_sum(v[0], {0, 1});
       },
       ref::reduce({0, 1}, {}, /*mean=*/false)},
      {"reduce_mean",
       [](const Values& v) {
         return reduce_mean(v[0], {1, 2});
       },
       ref::reduce({1, 2}, {3}, /*mean=*/true)},
  };
}

// y, h and c, flat, one behind the other.
OpRow recurrent_row(const std::string& name, const ref::RecurrentRow& row) {
  const auto op = [=](const Values& v) {
    const auto weights =
        static_cast<std::size_t>(4 * row.options.layers * (row.options.bidirectional ? 2 : 1));
    std::size_t next = 1 + weights;
    const Value lengths = row.lengths ? v[next++] : Value();
    Recurrence first;
    if (row.states) first.h = v[next++];
    if (row.states && row.options.cell == RecurrentCell::lstm) first.c = v[next++];
    const Recurrence made =
        recurrent(v[0], std::span(v).subspan(1, weights), row.options, lengths, first);
    std::vector<Value> parts;
    for (const Value part : {made.y, made.h, made.c})
      if (part.valid()) parts.push_back(reshape(part, {0}));
    return concat(parts, 0);
  };
  return {name, op, ref::recurrent(row)};
}

std::vector<OpRow> recurrent_rows() {
  RecurrentOptions plain, deep;
  deep.layers = 2;
  deep.bidirectional = deep.batch_first = true;
  const auto of = [](RecurrentOptions options, RecurrentCell cell) {
    options.cell = cell;
    return options;
  };
  return {
      recurrent_row("rnn_tanh", {of(plain, RecurrentCell::rnn_tanh)}),
      recurrent_row("rnn_relu", {of(plain, RecurrentCell::rnn_relu)}),
      recurrent_row("lstm", {plain}),
      recurrent_row("gru", {of(plain, RecurrentCell::gru)}),
      recurrent_row("rnn_tanh_packed", {of(deep, RecurrentCell::rnn_tanh), true, true}),
      recurrent_row("lstm_packed", {deep, true, true}),
      recurrent_row("gru_packed", {of(deep, RecurrentCell::gru), true, true}),
  };
}

std::vector<OpRow> norm_and_loss_rows() {
  return {
      {"softmax", [](const Values& v) { return softmax(v[0]); }, ref::softmax(false)},
      {"log_softmax", [](const Values& v) { return log_softmax(v[0]); }, ref::softmax(true)},
      {"layer_norm", [](const Values& v) { return layer_norm(v[0], v[1], v[2]); },
       ref::layer_norm(1e-5)},
      batch_norm_row("batch_norm"),
      batch_norm_row("batch_norm_ragged"),
      {"attention", [](const Values& v) { return attention(v[0], 2); }, ref::attention(2)},
      {"embedding", [](const Values& v) { return embedding(v[0], v[1]); }, ref::embedding()},
      {"softmax_cross_entropy",
       [](const Values& v) { return softmax_cross_entropy(v[0], v[1], v[2]); },
       ref::softmax_cross_entropy()},
      {"softmax_cross_entropy_positions",
       [](const Values& v) { return softmax_cross_entropy(v[0], v[1], v[2]); },
       ref::softmax_cross_entropy()},
      {"binary_cross_entropy",
       [](const Values& v) { return binary_cross_entropy(v[0], v[1], v[2]); },
       ref::binary_cross_entropy()},
      {"squared_error", [](const Values& v) { return squared_error(v[0], v[1], v[2]); },
       ref::squared_error()},
  };
}

}  // namespace

const std::vector<OpRow>& op_rows() {
  static const std::vector<OpRow> rows = [] {
    std::vector<OpRow> all = linear_rows();
    for (const auto& more :
         {pointwise_rows(), shape_rows(), norm_and_loss_rows(), recurrent_rows()})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  }();
  return rows;
}

}  // namespace peal
