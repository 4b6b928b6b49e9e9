// A Plan is a compiled Graph: the calls of forward and backward, every tensor at a fixed place of
// an arena, layouts and scratch memory decided. Running it allocates nothing and walks no graph.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/device/buffer.h"
#include "core/device/stream.h"
#include "core/device/tensor.h"
#include "core/graph/graph.h"
#include "core/kernels/kernels.h"

namespace peal {

// Where a tensor lies in an arena.
struct ArenaEntry {
  std::string name;
  Shape shape;
  std::size_t offset = 0;  // bytes, a multiple of kAlignment
};

// The one table that parameters, gradients and optimizer states share: the same offset in each
// arena belongs to the same parameter. Depends on the graph alone (not on batch or device), so
// that it is equal on every rank and for the training and the evaluation graph of one model.
//   [0, slots_end)              slots, in the order they were added
//   [slots_end, gradient_bytes) parameters in the order in which backward finishes their gradients;
//                               those on which the loss does not depend come last
struct ParameterTable {
  std::vector<ArenaEntry> slots;
  std::vector<ArenaEntry> parameters;
  std::vector<Initializer> initializers;  // of parameters
  std::vector<ArenaEntry> states;         // in an arena of their own
  std::vector<float> state_starts;
  std::size_t slots_end = 0;
  std::size_t gradient_bytes = 0;
  std::size_t state_bytes = 0;

  std::uint64_t hash() const;                             // of names, shapes and offsets
  const ArenaEntry& slot(const std::string& name) const;  // throws Error(internal)
};

ParameterTable make_parameter_table(const Graph& graph);

// Fills parameters and states, which are host memory, with their first values.
void initialize(const ParameterTable& table, std::uint64_t seed, std::byte* parameters,
                std::byte* states);

// Keys every random draw of a pass; `virtual_rank` counts micro-batches too
// (virtual_rank * accumulate_steps + part).
struct PassKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t virtual_rank = 0;
};

struct PlanMemory {
  std::size_t activations = 0;  // forward values, their gradients and what is saved for backward
  std::size_t scratch = 0;
  std::size_t activations_kept = 0;  // what `activations` would be without PlanOptions::recompute
};

// Which of the device's ways a product takes, MatmulSpec::algorithm, and a pass of a convolution,
// Conv2dSpec::algorithms: the same at any time. None: the device's first way.
struct ChooseAlgorithm {
  std::function<int(const MatmulSpec&)> product = {};
  std::function<int(const Conv2dSpec&, ConvPass)> convolution = {};
};

struct PlanOptions {
  bool fuse = true;  // merge convolution, relu and pooling (fusion.h); off in tests that compare
  Precision precision = Precision::f32;  // of products and convolutions
  // Rows of a dense layer's result are padded to a multiple of so many elements, whatever the
  // device would rather have (Kernels::padded_columns). 0: as it wants. For tests; on cuda of
  // halves alone.
  std::int64_t pad_rows_to = 0;
  // Keep what set_output named; in training it is in the way of gradients that could lie there.
  bool outputs = true;
  // Gradients of the same numbers may be one memory, as those of both terms of a sum, until one of
  // them is written. Off in tests that compare: the same bits.
  bool share = true;
  // Ops that can add what others have for a gradient to their part of it do so, instead of a call
  // behind them (OpCompiler::grad_in_more, grad_out_more). Off in tests that compare: of f32 the
  // same bits.
  bool ops_add = true;
  // For tests, where calls are not replayed: stops with Error(internal) behind a call of backward
  // that wrote what it may only read (OpCompiler::grad_out).
  bool check_reads = false;
  // In training: forget after forward what only a Graph::Block's own calls touch, and run its
  // forward again before its backward. Less memory, more time, the same bits.
  bool recompute = false;
  // After a first pass, replay the calls as recordings (core/device/recording.h), on cuda as CUDA
  // graphs: forward is one, so is apply_slots, and backward is cut at the bounds of
  // set_gradient_bounds. The same bits. Made for the addresses at hand (inputs, gradients), kept
  // for the last kMostRecorded of them.
  bool record = false;
  // False: convolutions and attention may take what is quicker on the device and adds up in any
  // order.
  bool deterministic = true;
  // Asked for every matrix product that an op makes and every pass that it makes of a convolution,
  // once each. What is inside a recurrent layer's kernel is not asked for.
  ChooseAlgorithm choose = {};
};

inline constexpr std::size_t kMostRecorded = 64;

class Plan {
 public:
  // training: backward will be called, dropout draws, batch norm uses the batch's statistics.
  // The arenas of `table` are bound with bind(); many Plans (one a lane) may share parameters.
  // A graph without slots, which computes outputs alone, may have the table of any other that has
  // its parameters. Throws Error(input) when the graph has no loss to train for.
  Plan(const Graph& graph, const ParameterTable& table, Device device, bool training,
       const PlanOptions& options = {});
  ~Plan();
  Plan(Plan&&) noexcept;

  // Memory of the device, as that of inputs and gradients is.
  void bind(std::byte* parameters, std::byte* states);
  // (1) f32 of the device by which loss_scale is multiplied, as it is when forward begins.
  void bind_loss_factor(const Tensor& factor);

  // Uses the tensor's memory as the named input until the next call; no copy. Shape and dtype
  // must match. Alignment to kAlignment.
  void set_input(const std::string& name, const Tensor& tensor);
  Tensor output(const std::string& name) const;

  // Called with the number of bytes of the gradient arena, from its start, that are final (to what
  // is enqueued on the stream after it): each time a parameter's gradient has become final, with
  // growing numbers; last with gradient_bytes. With PlanOptions::record only when the number
  // reaches the next of the bounds, and last.
  using OnGradientReady = std::function<void(std::size_t bytes_final)>;
  // Where the caller acts on it: growing numbers of bytes, such as the ends of buckets. None at
  // first.
  void set_gradient_bounds(std::vector<std::size_t> bounds);

  // Writes the slots of `gradients` (nullptr in evaluation: read slots with slot_value). In
  // training d(loss)/d(loss) = loss_scale (1 / global weight), as a loss may make its gradient at
  // once.
  void forward(Stream& s, const PassKey& key, std::byte* gradients, float loss_scale = 1);
  // After each forward once, as it may write over what that made. Overwrites every parameter's
  // gradient; that of a parameter on which the loss does not depend becomes 0.
  void backward(Stream& s, std::byte* gradients, const OnGradientReady& on_gradient_ready);
  // After the reduction: updates states (running averages) from the summed slots.
  void apply_slots(Stream& s, std::byte* gradients);
  // The value that forward copied, or would have copied, into a slot (first element). Waits for the
  // stream, on which forward ran.
  float slot_value(Stream& s, const std::string& name) const;

  PlanMemory memory() const;
  // The calls of backward in their order: "affine backward"; and the plan's own: "copy" of a
  // gradient as it is, "accumulate", "reorder".
  std::vector<std::string> backward_calls() const;
  // Sets of addresses for which forward, or backward, is recorded; for tests.
  std::size_t recorded_forward() const;
  std::size_t recorded_backward() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
