// Turns a recorded Graph into a Program: compiles the ops in order, arranges their backward calls,
// sums gradients of values with several consumers, and gives every tensor its place.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/graph/fusion.h"
#include "core/graph/memory_planner.h"
#include "core/graph/op_compiler.h"
#include "core/graph/plan.h"

namespace peal {

struct PlanCall {
  std::string op;
  CallFunction function;
  std::vector<int> uses;        // tensors it may touch (their bases)
  std::size_t bytes_final = 0;  // backward: of the gradient arena after this call, if that grew
  // What recompute.cpp and shared_gradients.cpp go by.
  int block = -1;           // of the op
  std::vector<int> writes;  // those of `uses` that it may write; forward: of what the op made
  bool again = false;       // in backward: a forward call's second run
  bool copies = false;      // in backward: the first of `uses` to the second, which it writes
  std::vector<int> reads;   // backward: those of `uses` that must be as they were after it
};

// What a Plan replays.
struct Program {
  struct Bound {  // a tensor at a fixed offset of an arena that is not ours
    int tensor;
    std::size_t offset;
  };
  struct Input {
    std::string name;
    Shape shape;
    DType dtype;
    std::vector<int> tensors;  // it and its views
    const void* data = nullptr;
  };
  struct Named {
    std::string name;
    int tensor;
  };
  struct Slot {
    std::string name;
    int value, slot;  // tensors: what forward made, and its place in the gradient arena
  };

  std::vector<Tensor> tensors;  // [0] is the empty tensor
  std::vector<int> bases;
  std::vector<PlanCall> forward, backward, apply;
  std::vector<PlanCall> to_slots;  // after forward: copies of what slots tell of
  std::vector<Bound> parameters, states, gradients;
  std::vector<Input> inputs;
  std::vector<Named> outputs;
  std::vector<Slot> slots;
  Buffer activations, scratch;
  std::size_t activations_kept = 0;
};

class PlanBuilder {
 public:
  PlanBuilder(const Graph& graph, const ParameterTable& table, Device device, bool training,
              const PlanOptions& options);

  std::unique_ptr<Program> build();

 private:
  friend class OpCompiler;

  struct Storage {
    enum class Kind : std::uint8_t { arena, scratch, input, parameter, state, gradient, nothing };
    Kind kind = Kind::arena;
    std::size_t bytes = 0;
    std::size_t place = 0;  // offset in its arena, or number of the input
    bool kept = false;      // to the end of the step and beyond
    bool written = false;   // by the op that made it, which writes it no more
    bool memory = false;    // of an op: each of its calls that lists it may write it
    int block = -1;         // >= 0: only this block's calls touch it, and backward makes it again
    Life life, again;       // the second: from its second making on
    std::vector<int> changes;  // calls of backward that write it, but for what a copy makes

    const Life& latest() const { return again.last < 0 ? life : again; }
    Life& latest() { return again.last < 0 ? life : again; }
  };
  struct Entry {
    Tensor tensor;
    int storage = -1;       // -1: a gradient that is not settled yet
    int base = 0;           // itself, or the entry that it is a view of
    int target = -1;        // root value whose gradient it adds to
    int more = 0;           // of such one: what its call adds to it (OpCompiler::grad_in_more)
    bool in_place = false;  // both may be one memory
  };
  // Everything the plan knows of one root value.
  struct Place {
    int entry = 0;            // as it lies; 0: not made yet
    std::vector<int> copies;  // of several layouts and types
    int gradient = 0;
    int more = 0;              // part of it that the op which made the value adds itself
    int sum = 0;               // of the contributions so far
    int sum_call = -1;         // backward call after which that is there; in the end the gradient
    int pending = 0;           // contributions still to come
    bool is_gradient = false;  // a forward call wrote that over it
  };

  // Tensors
  int add_storage(Storage::Kind kind, std::size_t bytes, std::size_t place = 0);
  int add_entry(const Shape& shape, DType dtype, const Layout* layout, int storage);
  int add_tensor(const Shape& shape, DType dtype, const Layout* layout = nullptr);
  int add_memory(const Shape& shape, DType dtype, const Layout* layout = nullptr);
  int view(int entry, const Shape& shape);
  int storage_index(int entry) const;  // of its base
  Storage& storage_of(int entry);
  Entry& entry(int index) { return entries_[static_cast<std::size_t>(index)]; }
  Place& place(int value);
  Place& place_to_read(int value);
  Form form_of(int index);
  int value_entry(int value, OpCompiler::Order order, DType dtype);
  int value_entry_in(int value, const Layout* layout, DType dtype);
  int value_copy(int value, int from, const Form& form);
  int gradient_entry(int value);
  int output_entry(int value, const Form& form);

  // Calls
  PlanCall make_call(const std::string& op, const std::vector<Ref>& uses, CallFunction function);
  PlanCall make_reorder(int from, int to);
  void add_call(PlanCall call);  // to forward or apply
  void add_backward_call(PlanCall call);
  void compile(const PlanStep& step);
  void compile_slots();
  void seed_backward();
  void arrange_backward();
  bool adds_sum(const Place& at, int target, int call);
  void settle(int target, int call);
  void add_to_gradient(Place& at, int part);
  void leave_nothing_to_add();
  void mark_final();

  // Recomputation (recompute.cpp)
  void find_what_blocks_own();
  std::vector<PlanCall> calls_made_again(int block) const;

  // Gradients in the memory of what they are made from (shared_gradients.cpp)
  struct Share {
    int from, gradient;  // entries: what it is made from, and which gradient
    bool copy;           // both are the same numbers; else the call works in place
  };
  using Storages = std::vector<int>;
  bool loss_may_write_over(const PlanStep& step, int input, int entry) const;
  void share_gradients();
  bool may_share(const Share& share, const Storages& with, const Storages& of_gradient) const;
  void check_sharing(const Storages& place) const;
  void drop_copies();

  // Memory
  void bind_values();
  void mark_lives(bool recompute);
  std::vector<MemoryPiece> pieces();
  std::size_t bytes_if_all_is_kept();
  void resolve();

  const Graph::Impl& impl_;
  const ParameterTable& table_;
  const Device device_;
  const bool training_, outputs_, recompute_, share_, ops_add_;
  const Precision precision_;
  const bool deterministic_;
  const ChooseAlgorithm choose_;
  const std::int64_t pad_rows_to_;
  Kernels& kernels_;
  const GradientFlow flow_;
  std::vector<PlanStep> steps_;

  std::vector<Storage> storages_;
  std::vector<Entry> entries_;
  std::vector<Place> places_;
  std::map<std::string, std::size_t> parameter_offsets_, state_offsets_;
  std::size_t scratch_bytes_ = 0;
  int scratch_storage_ = 0;

  std::vector<Share> shares_;

  // Of the step that is being compiled.
  std::vector<PlanCall>* calls_ = nullptr;
  std::vector<PlanCall>* backward_calls_ = nullptr;
  int block_ = -1;
  std::size_t step_storages_ = 0;   // the first that it made
  std::vector<int> step_targets_;   // entry of each input's gradient, 0: not asked for
  std::vector<int> step_in_place_;  // gradients of outputs that the op may write
  int slot_entry_ = 0;              // of an apply function
  std::vector<std::vector<PlanCall>> step_backward_;

  std::unique_ptr<Program> program_;
};

}  // namespace peal
