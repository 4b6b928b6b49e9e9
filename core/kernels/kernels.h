// The porting contract: everything a device must compute. kernels(device) is the only place in the
// tree that looks at the kind of device; a backend derives from Kernels.
//
// Common rules, unless a function says otherwise:
// - Tensors are f32, row-major, on the stream's device; indices and labels are i32.
// - Tensors that are called *stored* are activations and their gradients. In one call they are all
//   of one type: f32, bf16 or f16, which a prepared kernel is told when it is made and a direct
//   call sees by their dtype. Every product, sum and function is that of f32 after widening, and
//   what is written is rounded once, to nearest even.
// - Shapes are checked when a graph is recorded; kernels trust them.
// - Work is enqueued on `s` and nothing allocates or waits. Prepared kernels (make_*) do their
//   allocation, JIT compilation and choice of algorithm when they are made. On CUDA partial sums
//   wait in the stream's workspace (stream.h): a captured call is replayed in its stream's order.
// - Outputs are overwritten and never alias inputs, except where "may be in place" is said.
// - Every order of summation is fixed by the shapes alone: same inputs, same bits, at any time and
//   on any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "core/device/stream.h"
#include "core/device/tensor.h"
#include "core/kernels/form.h"

namespace peal {

// "3.0.0 (commit)" of the library behind the CPU's kernels, oneDNN, as it is loaded.
std::string onednn_version();
// "avx512_core_amx": the most capable instructions that it uses on this CPU. Where they differ,
// bits do.
std::string onednn_instructions();

enum class Activation : std::uint8_t { none, relu, leaky_relu, gelu, sigmoid, tanh, gelu_tanh };
// What its backward pass looks at: x, or y.
constexpr bool backward_reads_x(Activation kind) {
  return kind == Activation::gelu || kind == Activation::gelu_tanh;
}

enum class PoolKind : std::uint8_t { max, average };
enum class BinaryOp : std::uint8_t { add, sub, mul };

// tf32: products and convolutions may round their operands to 10 bits of fraction. bf16, f16:
// activations and their gradients are stored so, and so are copies of the weights that products and
// convolutions read; parameters, their gradients and sums stay f32. A product of f32 tensors may
// round its operands to 7 bits under bf16 and to 10 under f16, where its shape is worth it.
enum class Precision : std::uint8_t { f32, tf32, bf16, f16 };
DType stored_type(Precision precision);  // of activations

// Layouts are opaque and interned: equal ones compare equal by pointer.
std::size_t layout_bytes(const Tensor& x);  // bytes that x needs in its layout
// Row-major but for a gap behind each row, which begins `pitch` elements after the one before
// (layout.h). The same for all shapes of as many rows; nullptr where there is no gap.
const Layout* padded_rows(const Shape& shape, DType dtype, std::int64_t pitch);
std::int64_t row_pitch(const Tensor& x);  // of padded rows, or the columns of row-major ones

enum class ConvPass : std::uint8_t { forward, backward_data, backward_weights };
inline constexpr int kConvPasses = 3;

struct Conv2dSpec {
  Shape x;  // (B, C, H, W)
  Shape w;  // (O, C/groups, KH, KW)
  std::int64_t stride[2] = {1, 1};
  std::int64_t padding[2] = {0, 0};   // zeros on both sides
  std::int64_t dilation[2] = {1, 1};  // 1: dense
  std::int64_t groups = 1;
  bool bias = false;
  Activation activation = Activation::none;  // none or relu, fused into forward
  Precision precision = Precision::f32;      // where stored is f32
  DType stored = DType::f32;                 // x, w, y, dy and dx; bias, dw and db are f32, of
                                             // which a device may round dw to `stored` first
  const Layout* x_layout = nullptr;          // layout in which x arrives and dx is wanted
  bool training = true;                      // backward will be called
  bool needs_dx = true;                      // backward_data will be called
  bool deterministic = true;                 // false: a device may take what is quicker
  int algorithms[kConvPasses] = {0, 0, 0};   // by ConvPass, as MatmulSpec::algorithm
  int algorithm(ConvPass pass) const { return algorithms[static_cast<int>(pass)]; }
  // y = (B, O, OH, OW), OH = (H + 2*padding - dilation*(KH-1) - 1) / stride + 1
  Shape y() const;
};

// y = act(conv(x, w) + b). Cross-correlation, as every deep-learning library means it.
class Conv2d {
 public:
  virtual ~Conv2d() = default;
  // Blocks of channels, which pooling, pointwise kernels and batch norm take as they are; nullptr:
  // row-major. Also dy's.
  virtual const Layout* y_layout() const = 0;
  // In which w is wanted, so that who has it for both passes brings it there once; dw is row-major.
  virtual const Layout* w_layout() const { return nullptr; }
  virtual std::size_t scratch_bytes() const = 0;
  virtual void forward(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
                       Tensor scratch) = 0;
  // dy is the gradient before the activation (activation_backward has been applied).
  virtual void backward_data(Stream& s, const Tensor& dy, const Tensor& w, Tensor dx,
                             Tensor scratch) = 0;
  // db is empty when the spec has no bias.
  virtual void backward_weights(Stream& s, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                                Tensor scratch) = 0;
};

struct Pool2dSpec {
  PoolKind kind = PoolKind::max;
  Shape x;  // (B, C, H, W)
  std::int64_t kernel[2] = {2, 2};
  std::int64_t stride[2] = {2, 2};
  std::int64_t padding[2] = {0, 0};
  bool include_padding = true;       // average: padding counts in the divisor (PyTorch's default)
  const Layout* x_layout = nullptr;  // layout of x, y, dy and dx
  DType stored = DType::f32;         // all four
  bool training = true;
  // y = (B, C, OH, OW), OH = (H + 2*padding - kernel) / stride + 1
  Shape y() const;
};

// Max-pooling sends the gradient to the first maximum of a window. `saved` (saved_bytes) carries
// what backward needs from forward; not used when training is false.
class Pool2d {
 public:
  virtual ~Pool2d() = default;
  virtual const Layout* y_layout() const = 0;
  virtual std::size_t saved_bytes() const = 0;
  virtual std::size_t scratch_bytes() const = 0;
  virtual void forward(Stream& s, const Tensor& x, Tensor y, Tensor saved, Tensor scratch) = 0;
  virtual void backward(Stream& s, const Tensor& dy, const Tensor& saved, Tensor dx,
                        Tensor scratch) = 0;
};

// Convolution, relu and max-pooling in one pass, so that the convolution's output (the largest
// tensor of a small CNN) never leaves the cache: y = max_pool(relu(conv(x, w) + b)).
// All tensors are f32. Backward recomputes or keeps what it likes in `saved`. Bits equal the three
// separate kernels' up to the order of summation over records in dw and db, which is fixed.
class ConvReluPool {
 public:
  virtual ~ConvReluPool() = default;
  virtual std::size_t saved_bytes() const = 0;
  virtual std::size_t scratch_bytes() const = 0;
  virtual void forward(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
                       Tensor saved, Tensor scratch) = 0;
  // dx is empty when conv.needs_dx is false.
  virtual void backward(Stream& s, const Tensor& x, const Tensor& w, const Tensor& y,
                        const Tensor& dy, const Tensor& saved, Tensor dx, Tensor dw, Tensor db,
                        Tensor scratch) = 0;
};

enum class OperandSums : std::uint8_t { none, a, b };

struct MatmulSpec {
  // c (batch, m, n) = act(a (batch, m, k) * b (batch, k, n) + bias (n) + addend (batch, m, n)), or,
  // with `slope`, (a * b) * act'(before (batch, m, n)): a gradient on its way through act.
  // transpose_a: a is stored (batch, k, m); transpose_b: b is stored (batch, n, k).
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  bool broadcast_b = false;  // one b for the whole batch
  bool bias = false;
  bool addend = false;                       // of c's type, added in f32 before c is rounded
  Activation activation = Activation::none;  // none, relu or gelu_tanh
  bool keeps_before = false;  // with gelu_tanh: what it gets is written to `before`, of c's type
  bool slope = false;         // with gelu_tanh; there is no bias and no addend
  // Beside c its operand's sums over k, f32: of a (m) or of b (n), a batch of 1. They are what
  // reduce_sum gives; a way of halves may take them in f32, as the product's own. Ways that do and
  // ways that do not may take turns, of either kind as many as there are.
  OperandSums sums = OperandSums::none;
  Precision precision = Precision::f32;  // where the operands are f32
  DType operands = DType::f32;           // a and b: f32, bf16 or f16
  DType result = DType::f32;             // c: f32 or as the operands
  // Of a device's ways for such a product, in its own order of preference: 0 is what it takes by
  // itself, another is somebody's choice (algorithm_choices.h). A device that has no choice takes
  // its one, others fail with Error(input) where there are not so many.
  int algorithm = 0;
  // The bias is f32; a device may round it to the result's type before it is added. gelu_tanh may
  // get what is rounded to c's type or what is not, and its slope is a factor of either; of a half
  // c a device may have the tanh within 2^-10.
};

class Matmul {
 public:
  virtual ~Matmul() = default;
  virtual std::size_t scratch_bytes() const = 0;
  // bias, addend, before and sums are empty when the spec has none.
  struct Operands {
    Tensor a, b, c, bias, addend, before, sums;
  };
  virtual void run(Stream& s, const Operands& of, Tensor scratch) = 0;
};

// Over the last axis of x seen as (rows, columns): y = softmax(x) or log_softmax(x).
class Softmax {
 public:
  virtual ~Softmax() = default;
  virtual std::size_t scratch_bytes() const = 0;
  virtual void forward(Stream& s, const Tensor& x, Tensor y, Tensor scratch) = 0;
  virtual void backward(Stream& s, const Tensor& y, const Tensor& dy, Tensor dx,
                        Tensor scratch) = 0;
};

// x, y, dx and dy are stored.
// y = (x - mean) / sqrt(var + epsilon) * gamma + beta over the last axis of x seen as
// (rows, columns); var is biased (Ba et al. 2016, section 3). mean and rstd are (rows): forward
// writes the mean and the *variance*, backward reads both. Of halves a device may take backward's
// sums over a row in f32, and those over rows for 8 rows at a time; the rest is f64.
// more_dx, stored or empty, is added to the gradient of x in f32, and dx is the sum: of f32 the
// bits of `accumulate` behind it. Of halves a device may round the gradient once before that, too.
class LayerNorm {
 public:
  virtual ~LayerNorm() = default;
  virtual std::size_t scratch_bytes() const = 0;
  virtual bool adds_in_place() const = 0;  // dx may be more_dx
  virtual void forward(Stream& s, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                       Tensor y, Tensor mean, Tensor variance, Tensor scratch) = 0;
  virtual void backward(Stream& s, const Tensor& x, const Tensor& gamma, const Tensor& mean,
                        const Tensor& variance, const Tensor& dy, const Tensor& more_dx, Tensor dx,
                        Tensor dgamma, Tensor dbeta, Tensor scratch) = 0;
};

enum class RecurrentCell : std::uint8_t { rnn_tanh, rnn_relu, lstm, gru };

// L layers of D directions over T steps of B records.
struct RecurrentSpec {
  RecurrentCell cell = RecurrentCell::lstm;
  std::int64_t steps = 0, batch = 0, inputs = 0, hidden = 0;  // T, B, I, H
  std::int64_t layers = 1;                                    // L
  bool bidirectional = false;                                 // D = 2: forward, then reverse
  bool batch_first = false;  // x (B, T, I), y (B, T, D*H); otherwise (T, B, I), (T, B, D*H)
  bool lengths = false;      // records end at their length; otherwise all have T steps
  bool initial = false;      // first states are given; otherwise they are 0
  bool training = true;      // backward will be called
  bool needs_dx = true;
  std::int64_t directions() const { return bidirectional ? 2 : 1; }
  std::int64_t gates() const;  // G: 1, LSTM 4, GRU 3
  Shape x() const;
  Shape y() const;
  Shape state() const;  // (L*D, B, H)
  // Of PyTorch's nn.RNN, nn.LSTM and nn.GRU, by layer and then direction, each with weight_ih (G*H,
  // I or D*H), weight_hh (G*H, H), bias_ih (G*H), bias_hh (G*H); gates i f g o (LSTM), r z n (GRU).
  std::vector<Shape> weights() const;
};

// With a = W_ih x_t + b_ih and u = W_hh h_(t-1) + b_hh, a gate's part of them bearing its letter:
//   RNN   h_t = tanh(a + u), or relu
//   LSTM  i, f, o = sigmoid(a + u), g = tanh(a + u); c_t = f c_(t-1) + i g; h_t = o tanh(c_t)
//         (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000)
//   GRU   r, z = sigmoid(a + u), n = tanh(a_n + r u_n); h_t = (1 - z) n + z h_(t-1)
//         (Cho et al. 2014 with the reset gate behind the product, as PyTorch and cuDNN have it)
// y_t = h_t of the last layer, reverse beside forward. A layer's input is the y of the one below.
// With `lengths` (B) i32, a step t >= lengths[b] leaves record b's state as it is: its y is 0
// there, its last state is that of its own last step (the reverse direction begins there), and
// nothing of dy or x flows in there. Lengths outside of 0..T count as 0 and T. Order of summation:
// each product as Matmul's; dW over the rows (t, b) in one product; db over them as reduce_sum's.
class Recurrent {
 public:
  struct State {
    Tensor h, c;  // spec.state() each; c is the LSTM's, otherwise empty
  };
  virtual ~Recurrent() = default;
  virtual std::size_t saved_bytes() const = 0;  // 0 when training is false
  virtual std::size_t scratch_bytes() const = 0;
  // lengths, first: empty unless the spec has them. last: a tensor that is not wanted may be empty.
  virtual void forward(Stream& s, const Tensor& x, const Tensor& lengths, const State& first,
                       std::span<const Tensor> weights, Tensor y, State last, Tensor saved,
                       Tensor scratch) = 0;
  // dy, dlast: empty stands for zeros. dx, dfirst: may be empty. dweights are all written.
  virtual void backward(Stream& s, const Tensor& x, const Tensor& lengths, const State& first,
                        std::span<const Tensor> weights, const Tensor& y, const Tensor& dy,
                        const State& dlast, const Tensor& saved, Tensor dx, State dfirst,
                        std::span<const Tensor> dweights, Tensor scratch) = 0;
};

struct AttentionSpec {
  std::int64_t batch = 0, time = 0, heads = 0, width = 0;  // B, T, H, C; D = C / H
  bool training = true;                                    // backward will be called
  DType stored = DType::f32;                               // qkv, y, dy and dqkv
  bool deterministic = true;  // false: a device may take what is quicker
};

// Causal self-attention of H heads (Vaswani et al. 2017, section 3.2), straight from the product
// that makes queries, keys and values: qkv (B, T, 3*C) has q, k and v (C each) side by side, y is
// (B, T, C), and head h has the columns from h*D to h*D + D-1 of each. For every record and head
//   p[t, u] = softmax over u = 0..t of (q[t] . k[u] / sqrt(D)),   y[t] = sum over u of p[t, u] v[u]
// log_sums (B, H, T): the logarithm of the softmax's denominator, from which backward makes p
// again; nothing of size T*T is kept.
class Attention {
 public:
  virtual ~Attention() = default;
  virtual std::size_t scratch_bytes() const = 0;
  virtual void forward(Stream& s, const Tensor& qkv, Tensor y, Tensor log_sums, Tensor scratch) = 0;
  virtual void backward(Stream& s, const Tensor& qkv, const Tensor& y, const Tensor& log_sums,
                        const Tensor& dy, Tensor dqkv, Tensor scratch) = 0;
};

struct AttentionStepSpec {
  std::int64_t batch = 0, context = 0, heads = 0, width = 0;  // B, T, H, C; D = C / H
  Shape cache() const { return {batch, 2, heads, context, width / heads}; }
};

// Attention's row t alone, over keys and values that are kept: qkv (B, 3*C) is that of position t,
// which `position` (1) i32 holds, 0 <= t < T. cache (B, 2, H, T, D) has keys, then values: those of
// t are written, those of 0..t read, what lies behind is not. y (B, C). One pass over what is read
// of the cache; the order of summation is fixed by the shapes and t.
class AttentionStep {
 public:
  virtual ~AttentionStep() = default;
  virtual std::size_t scratch_bytes() const = 0;
  virtual void run(Stream& s, const Tensor& qkv, const Tensor& position, Tensor cache, Tensor y,
                   Tensor scratch) = 0;
};

// Copies between two forms of one shape: layouts, types (a narrower one is rounded to), or both.
// Behind padded rows zeros are written.
class Reorder {
 public:
  virtual ~Reorder() = default;
  virtual std::size_t scratch_bytes() const = 0;
  virtual void run(Stream& s, const Tensor& from, Tensor to, Tensor scratch) = 0;
};

class Kernels {
 public:
  virtual ~Kernels() = default;

  // Whether prepared kernels may be asked for it on this device, and what is stored may be of
  // stored_type(precision).
  virtual bool has_precision(Precision precision) const = 0;
  // The pitch at which rows of a product, stored so, are written and read much sooner than where
  // they follow each other; `columns` where there is no such.
  virtual std::int64_t padded_columns(std::int64_t /*rows*/, std::int64_t columns,
                                      DType /*stored*/) const {
    return columns;
  }

  // ---- Prepared kernels -------------------------------------------------------------------
  virtual std::unique_ptr<Conv2d> make_conv2d(const Conv2dSpec& spec) = 0;
  virtual std::unique_ptr<Pool2d> make_pool2d(const Pool2dSpec& spec) = 0;
  // nullptr when the device has no fused form for these shapes; the caller then uses the parts.
  // x arrives row-major, y leaves row-major.
  virtual std::unique_ptr<ConvReluPool> make_conv_relu_pool(const Conv2dSpec& conv,
                                                            const Pool2dSpec& pool) = 0;
  virtual std::unique_ptr<Matmul> make_matmul(const MatmulSpec& spec) = 0;
  // What decides how many ways products and convolutions have and in which order: "NVIDIA H100 80GB
  // HBM3, cuBLASLt 13.1.0, cuDNN 9.19.0". Empty: there is one way for each.
  virtual std::string algorithm_library() const { return {}; }
  virtual std::unique_ptr<Softmax> make_softmax(std::int64_t rows, std::int64_t columns,
                                                bool log) = 0;
  virtual std::unique_ptr<LayerNorm> make_layer_norm(std::int64_t rows, std::int64_t columns,
                                                     float epsilon, DType stored = DType::f32) = 0;
  virtual std::unique_ptr<Recurrent> make_recurrent(const RecurrentSpec& spec) = 0;
  virtual std::unique_ptr<Attention> make_attention(const AttentionSpec& spec) = 0;
  virtual std::unique_ptr<AttentionStep> make_attention_step(const AttentionStepSpec& spec) = 0;
  virtual std::unique_ptr<Reorder> make_reorder(const Shape& shape, const Form& from,
                                                const Form& to) = 0;

  // ---- Memory -----------------------------------------------------------------------------
  virtual void fill(Stream& s, Tensor x, float value) = 0;          // stored
  virtual void copy(Stream& s, const Tensor& from, Tensor to) = 0;  // same bytes, any dtype
  // to (N) i64 becomes `values`, which the caller need not keep; N is at most kMostValues.
  static constexpr int kMostValues = 4;
  virtual void set_values(Stream& s, std::span<const std::int64_t> values, Tensor to) = 0;

  // ---- Pointwise; all stored, of one shape and one layout; may be in place -----------------
  // slope is leaky_relu's. gelu is the exact form, x * Phi(x) (Hendrycks & Gimpel 2016); gelu_tanh
  // their approximation, x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), in f32.
  virtual void activation(Stream& s, Activation kind, float slope, const Tensor& x, Tensor y) = 0;
  // x is read by gelu and gelu_tanh, y by every other kind; the one not read may be empty.
  virtual void activation_backward(Stream& s, Activation kind, float slope, const Tensor& x,
                                   const Tensor& y, const Tensor& dy, Tensor dx) = 0;
  virtual void scale(Stream& s, float factor, const Tensor& x, Tensor y) = 0;  // y = factor * x
  virtual void accumulate(Stream& s, const Tensor& x, Tensor y) = 0;           // y += x
  // z = x op y with NumPy's broadcasting; same shape and in place (z is x) is the fast case.
  virtual void binary(Stream& s, BinaryOp op, const Tensor& x, const Tensor& y, Tensor z) = 0;
  // y = x / (1-p) where a draw keyed by (draws, site, element index) is >= p, else 0. Backward is
  // the same call on dy. Philox words of counter i/4 serve elements 4*(i/4)..+3 (word w of 24
  // bits). draws (2) i64 is a DrawKey (philox.h) in memory, read when the work is done: a step that
  // is recorded once and replayed (recording.h) draws anew each time.
  virtual void dropout(Stream& s, const Tensor& draws, std::uint64_t site, float p, const Tensor& x,
                       Tensor y) = 0;

  // ---- Shape ------------------------------------------------------------------------------
  // y[i_perm[0], i_perm[1], ...] = x[i_0, i_1, ...], PyTorch's permute.
  virtual void transpose(Stream& s, const Tensor& x, std::span<const int> perm, Tensor y) = 0;
  // Copies the box of shape `extent` from x at x_start to y at y_start; the rest of y is kept.
  // Serves concat, slice and both their gradients.
  virtual void copy_box(Stream& s, const Tensor& x, std::span<const std::int64_t> x_start, Tensor y,
                        std::span<const std::int64_t> y_start, const Shape& extent) = 0;
  // Sums x, stored, over the axes where y's dimension is 1 and x's is not (y has x's rank), times
  // factor. y is f32. Sums are f64; a device may add up to 16 halves in f32 before.
  virtual void reduce_sum(Stream& s, const Tensor& x, float factor, Tensor y) = 0;
  // y = factor * x with x's dimensions of 1 repeated to y's shape. x is f32, y stored.
  virtual void broadcast(Stream& s, const Tensor& x, float factor, Tensor y) = 0;

  // ---- Normalisation over the batch (Ioffe & Szegedy 2015, algorithm 1) --------------------
  // x is (B, C, ...), weight (B): 0 marks a padded record, which counts nowhere. x, residual, y and
  // their gradients are stored and share one layout, row-major or a convolution's. mean and
  // variance (biased) are (C) over the records of weight > 0. contribution, which may be empty, is
  // what ranks add up for the running averages, (2*C + 1): n*mean, n*unbiased variance, n, where n
  // is the number of values per channel (records of weight > 0 times pixels).
  virtual void batch_norm_statistics(Stream& s, const Tensor& x, const Tensor& weight, Tensor mean,
                                     Tensor variance, Tensor contribution) = 0;
  // y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta + residual); act is none or relu,
  // and residual is empty where nothing is added.
  virtual void batch_norm(Stream& s, const Tensor& x, const Tensor& mean, const Tensor& variance,
                          const Tensor& gamma, const Tensor& beta, float epsilon,
                          const Tensor& residual, Activation activation, Tensor y) = 0;
  // Gradient through activation and statistics. dx of padded records is 0. With a residual,
  // dresidual becomes the gradient before the activation, which y tells (y <= 0: 0), and that of y
  // may come as two terms, whose sum dy + more_dy is rounded as if it were stored; else these three
  // are empty, and what the activation got is computed again. On a GPU 8 neighbours or rows of
  // halves are added up in f32 before they are added to a sum in f64.
  virtual void batch_norm_backward(Stream& s, const Tensor& x, const Tensor& weight,
                                   const Tensor& mean, const Tensor& variance, const Tensor& gamma,
                                   const Tensor& beta, float epsilon, const Tensor& y,
                                   Activation activation, const Tensor& dy, const Tensor& more_dy,
                                   Tensor dx, Tensor dgamma, Tensor dbeta, Tensor dresidual) = 0;
  // running = (1 - momentum) * running + momentum * (sums / n); unchanged when n is 0.
  virtual void batch_norm_running(Stream& s, const Tensor& sums, float momentum,
                                  Tensor running_mean, Tensor running_variance) = 0;

  // ---- Embedding --------------------------------------------------------------------------
  // ids (N), table (V, C), y (N, C) and dy stored. Ids were checked when the record was read.
  virtual void embedding(Stream& s, const Tensor& ids, const Tensor& table, Tensor y) = 0;
  // Row v of dtable becomes the sum of the dy[i] whose ids[i] is v, in the order of i; where dy is
  // a half, equal parts of an id that is used often may be added up first. adds: that sum is added
  // to what is there, once, as `accumulate` would. scratch: so many bytes.
  static constexpr std::size_t embedding_scratch_bytes(std::int64_t ids, std::int64_t rows) {
    return static_cast<std::size_t>(3 * rows + 1 + ids) * sizeof(std::int32_t);
  }
  virtual void embedding_backward(Stream& s, const Tensor& ids, const Tensor& dy, bool adds,
                                  Tensor dtable, Tensor scratch) = 0;

  // ---- Losses: sums over records of weight * loss; `loss` is one element -------------------
  // logits and dlogits (N, C) stored, labels (N) i32, weight (B): a record has N/B rows, such as
  // the positions of a text, and its loss is the mean of theirs. saved (N, 2) is kept for backward:
  // each row's largest logit and 1 / sum(exp(x - largest)). Rows of logits and dlogits may be
  // padded (padded_rows), both alike; on CUDA those of halves alone. e^x for halves is within 1e-6
  // * (1 + |x|) of itself, and a row's sum within 1e-6.
  virtual void softmax_cross_entropy(Stream& s, const Tensor& logits, const Tensor& labels,
                                     const Tensor& weight, Tensor saved, Tensor loss) = 0;
  // dlogits = dloss * weight / (N/B) * (softmax(logits) - one_hot(labels)); dloss is one element.
  // May be in place: dlogits is logits.
  virtual void softmax_cross_entropy_backward(Stream& s, const Tensor& logits, const Tensor& saved,
                                              const Tensor& labels, const Tensor& weight,
                                              const Tensor& dloss, Tensor dlogits) = 0;
  // Both at once, of rows that are read once: the bits of the two calls. May be in place; `saved`
  // is worthless afterwards.
  virtual void softmax_cross_entropy_with_gradient(Stream& s, const Tensor& logits,
                                                   const Tensor& labels, const Tensor& weight,
                                                   const Tensor& dloss, Tensor saved, Tensor loss,
                                                   Tensor dlogits) = 0;
  // logits, targets (f32) and weight (B); log(1 + exp(x)) - t*x in its stable form.
  virtual void binary_cross_entropy(Stream& s, const Tensor& logits, const Tensor& targets,
                                    const Tensor& weight, Tensor loss) = 0;
  virtual void binary_cross_entropy_backward(Stream& s, const Tensor& logits, const Tensor& targets,
                                             const Tensor& weight, const Tensor& dloss,
                                             Tensor dlogits) = 0;
  // x, targets (B, F); weight (B): sum_b weight_b * mean_f (x - t)^2.
  virtual void squared_error(Stream& s, const Tensor& x, const Tensor& targets,
                             const Tensor& weight, Tensor loss) = 0;
  virtual void squared_error_backward(Stream& s, const Tensor& x, const Tensor& targets,
                                      const Tensor& weight, const Tensor& dloss, Tensor dx) = 0;

  // ---- Metrics: number of records of weight > 0 that are right, one element ----------------
  virtual void count_correct(Stream& s, const Tensor& logits, const Tensor& labels,
                             const Tensor& weight, Tensor count) = 0;  // first argmax == label
  virtual void count_correct_binary(Stream& s, const Tensor& logits, const Tensor& targets,
                                    const Tensor& weight, Tensor count) = 0;  // (x > 0) == (t > .5)

  // ---- Gradients as matrices of low rank (Vogels et al. 2019); K is small, 1 to 64 ----------
  // m (R, C) += g (R, C); p (R, K) = m q^T with q (K, C). One pass over m.
  virtual void low_rank_project(Stream& s, const Tensor& g, const Tensor& q, Tensor m,
                                Tensor p) = 0;
  // q (K, C) = p^T m. One pass over m.
  virtual void low_rank_project_back(Stream& s, const Tensor& m, const Tensor& p, Tensor q) = 0;
  // y (R, C) = p q. Any rows of p and y give those rows.
  virtual void low_rank_expand(Stream& s, const Tensor& p, const Tensor& q, Tensor y) = 0;
  // m -= factor * y, elementwise.
  virtual void subtract_scaled(Stream& s, float factor, const Tensor& y, Tensor m) = 0;
  // Makes the columns of p (R, K), K <= R, orthonormal by modified Gram-Schmidt, in place. A column
  // that the ones before it make up (zeros are) is replaced by normal draws: column k's of row i is
  // draw i of the stream k of `key`.
  virtual void orthonormalize(Stream& s, const RandomKey& key, Tensor p) = 0;

  // ---- Flat arenas: gradients and optimizers; x, g, m, v are (N), may be any slice ----------
  // Per block of kNormBlock elements counted from the start of the tensor: sums[i] (f64) = sum of
  // squares. The caller adds the blocks up in order.
  static constexpr std::int64_t kNormBlock = 4096;
  virtual void sum_squares(Stream& s, const Tensor& x, Tensor sums) = 0;

  // What a step decides by its own numbers stays on the device, so that the host need not wait for
  // them to enqueue what follows: control (2) f32 in memory is {go, factor}.
  // go (1), 1 or 0, stays 1 where it is and every element of x is finite, else it becomes 0. Where
  // it is 0 then, `cleared` becomes zeros. x may be part of cleared.
  virtual void guard(Stream& s, const Tensor& x, Tensor go, Tensor cleared) = 0;
  // norm (1) f64 = sqrt(sum over i of sums[order[i]]) / scale, sums (N) f64, order (N) i64 or
  // empty: as they lie; factor (1) f32 = min(1, clip / (norm + 1e-6)) / scale, PyTorch's
  // clip_grad_norm_, where a NaN stays one; 1 / scale where clip is 0. scale (1) f32 is by what the
  // gradient was multiplied, a power of two; empty: 1.
  virtual void clip(Stream& s, const Tensor& sums, const Tensor& order, double clip,
                    const Tensor& scale, Tensor norm, Tensor factor) = 0;
  // A loss scale that adapts (Micikevicius et al. 2018, section 3.2): scaling (3) f32 is {scale,
  // good, used}; used becomes the scale of this step, and where the norm (1) f64 is
  //   finite: go = open; good + 1, and at `every` of them scale doubles, up to 2^24, and good is 0
  //   not:    go = 0; good = 0; scale is halved, and open becomes 0 where it was not above 1
  // open (1) and go (1) are f32, 1 or 0. Where open is 0 before, go becomes 0 and scaling is kept.
  virtual void adapt_scale(Stream& s, const Tensor& norm, std::int64_t every, Tensor open,
                           Tensor go, Tensor scaling) = 0;

  // Options are f64, so that 1 - beta is what PyTorch uses; kernels round each factor once. With a
  // control (else it is empty) the gradient's factor is gradient_scale * factor, and nothing
  // changes where go is 0.
  struct SgdStep {
    double learning_rate, momentum, weight_decay;
    bool nesterov, first;  // first: the velocity becomes the gradient
    float gradient_scale;  // 1 for none
    Tensor control = {};
  };
  // PyTorch's SGD: g += wd*x; v = momentum*v + g; x -= lr * (nesterov ? g + momentum*v : v).
  // velocity is empty when momentum is 0.
  virtual void sgd(Stream& s, const SgdStep& step, const Tensor& g, Tensor velocity, Tensor x) = 0;
  struct AdamStep {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    bool decoupled;                   // AdamW
    double correction1, correction2;  // 1 - beta^t
    float gradient_scale;
    Tensor control = {};
  };
  // Kingma & Ba 2015, algorithm 1, in PyTorch's form: x -= lr/c1 * m / (sqrt(v)/sqrt(c2) + eps).
  virtual void adam(Stream& s, const AdamStep& step, const Tensor& g, Tensor m, Tensor v,
                    Tensor x) = 0;
  struct RmsPropStep {
    double learning_rate, alpha, epsilon, momentum, weight_decay;
    float gradient_scale;
    Tensor control = {};
  };
  // PyTorch's RMSprop, not centred: v = a*v + (1-a)*g^2; step = g / (sqrt(v) + eps), through a
  // velocity when momentum > 0 (empty otherwise).
  virtual void rmsprop(Stream& s, const RmsPropStep& step, const Tensor& g, Tensor v,
                       Tensor velocity, Tensor x) = 0;
};

// The backend of a device; lives as long as the program. Throws Error(input) "built without CUDA".
Kernels& kernels(const Device& device);

}  // namespace peal
