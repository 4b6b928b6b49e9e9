// The catalogue of ops: everything model code may call. Each records itself into the graph of its
// first argument. Shapes are checked here; an error begins with the op's name and says what was
// given and what is allowed. To add an op, follow relu (pointwise) or layer_norm (prepared kernel).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/graph/graph.h"
#include "core/kernels/kernels.h"

namespace peal {

struct Conv2dOptions {
  std::int64_t stride[2] = {1, 1};
  std::int64_t padding[2] = {0, 0};
  std::int64_t dilation[2] = {1, 1};
  std::int64_t groups = 1;
};

struct PoolOptions {
  std::int64_t kernel[2] = {2, 2};
  std::int64_t stride[2] = {2, 2};
  std::int64_t padding[2] = {0, 0};
  bool include_padding = true;
};

struct RecurrentOptions {
  RecurrentCell cell = RecurrentCell::lstm;
  std::int64_t layers = 1;
  bool bidirectional = false;
  bool batch_first = false;  // x and y are (B, T, ..), otherwise (T, B, ..)
  float dropout = 0;         // behind each layer but the last, in training
};

struct Recurrence {
  Value y;     // (T, B, D*H) or (B, T, D*H)
  Value h, c;  // (L*D, B, H): states; c is the LSTM's
};

// ---- Linear algebra and convolution ----
Value matmul(Value a, Value b);                  // (..., m, k) x (..., k, n) or (k, n)
Value dense(Value x, Value weight, Value bias);  // x (B, I), weight (O, I), bias (O) or none
// x (..., I), weight (I, O) as GPT-2 stores it, bias (O) -> (..., O)
Value affine(Value x, Value weight, Value bias);
Value conv2d(Value x, Value weight, Value bias, const Conv2dOptions& options = {});
Value max_pool2d(Value x, const PoolOptions& options = {});
Value avg_pool2d(Value x, const PoolOptions& options = {});
Value global_avg_pool2d(Value x);  // (B, C, H, W) -> (B, C)

// ---- Pointwise ----
Value relu(Value x);
Value leaky_relu(Value x, float slope = 0.01f);
Value gelu(Value x);
Value gelu_tanh(Value x);  // gelu's approximation by tanh, which GPT-2 uses
Value sigmoid(Value x);
Value tanh(Value x);
Value add(Value x, Value y);  // NumPy's broadcasting
Value mul(Value x, Value y);
Value scale(Value x, float factor);
Value dropout(Value x, float p);  // identity when the plan is not for training

// ---- Shape ----
Value reshape(Value x, const Shape& shape);  // one dimension may be 0: the rest
Value flatten(Value x);                      // (B, ...) -> (B, F)
Value transpose(Value x, std::vector<int> permutation);
Value concat(std::span<const Value> parts, int axis);
Value slice(Value x, int axis, std::int64_t begin, std::int64_t end);

// ---- Reductions ----
Value reduce_sum(Value x, std::vector<int> axes, bool keep_dims = false);
Value reduce_mean(Value x, std::vector<int> axes, bool keep_dims = false);

// ---- Normalisation ----
Value softmax(Value x);                                                     // last axis
Value log_softmax(Value x);                                                 // last axis
Value layer_norm(Value x, Value gamma, Value beta, float epsilon = 1e-5f);  // last axis
// x (B, C, ...); weight (B), 0 for padded records. Statistics are per virtual rank; the running
// averages `name`.running_mean and .running_var are states made here, merged in tree order.
Value batch_norm(const std::string& name, Value x, Value gamma, Value beta, Value weight,
                 float momentum = 0.1f, float epsilon = 1e-5f);

// Causal self-attention: qkv (B, T, 3*C), queries, keys and values side by side -> (B, T, C).
// C is a multiple of heads; kernels.h has the formula (Attention).
Value attention(Value qkv, std::int64_t heads);
// The same without a gradient, for a text that is gone on with. cache (B, 2, H, U, C/H), T <= U,
// is an input whose memory the op writes: keys and values of the positions so far. Without
// `position` qkv are the first T positions; with it (1), i32, T is 1 and qkv is that position,
// behind all that the cache holds of the text (AttentionStep).
Value cached_attention(Value qkv, std::int64_t heads, Value cache, Value position = {});

Value embedding(Value ids, Value table);  // ids (N...) i32, table (V, C) -> (N..., C)

// ---- Recurrent layers: RecurrentSpec and Recurrent in kernels.h have shapes and formulas ----
// weights: weight_ih, weight_hh, bias_ih, bias_hh of each layer and direction. lengths (B) i32 or
// none; `first` are the states before the first step, its y is not looked at.
Recurrence recurrent(Value x, std::span<const Value> weights, const RecurrentOptions& options = {},
                     Value lengths = {}, const Recurrence& first = {});

// ---- Losses: weighted sums over records, one element ----
// logits (B, ..., C), labels (B, ...): the loss of a record is the mean over its positions
Value softmax_cross_entropy(Value logits, Value labels, Value weight);
Value binary_cross_entropy(Value logits, Value targets, Value weight);
Value squared_error(Value x, Value targets, Value weight);

// ---- Metrics: weighted counts, one element, no gradient ----
Value count_correct(Value logits, Value labels, Value weight);
Value count_correct_binary(Value logits, Value targets, Value weight);

}  // namespace peal
