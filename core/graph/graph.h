// A Graph is a recording: model code calls ops (ops.h) on Values as if it computed, and the graph
// remembers them. Plan (plan.h) compiles it.
#pragma once

#include <any>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/device/tensor.h"

namespace peal {

class Graph;
class OpCompiler;  // plan.h's side of an op, defined in op_compiler.h

// A tensor-to-be. Copies refer to the same tensor.
class Value {
 public:
  Value() = default;
  Value(Graph* graph, int id) : graph_(graph), id_(id) {}

  const Shape& shape() const;
  DType dtype() const;
  Graph& graph() const { return *graph_; }
  int id() const { return id_; }
  bool valid() const { return graph_ != nullptr; }

 private:
  Graph* graph_ = nullptr;
  int id_ = -1;
};

// How a parameter starts. Values are a pure function of (seed, parameter name, element index).
struct Initializer {
  enum class Kind : std::uint8_t { constant, uniform, normal };
  Kind kind = Kind::constant;
  float value = 0;  // constant: the value; uniform: bound of (-b, b); normal: deviation

  static Initializer constant(float value);
  static Initializer uniform(float bound);
  static Initializer normal(float deviation);
  // PyTorch's default for dense and convolution weights and biases: uniform, bound 1/sqrt(fan_in)
  // (He et al. 2015 with a = sqrt(5)).
  static Initializer fan_in(std::int64_t fan_in);
};

// Makes an op's forward and backward calls when a Plan is compiled.
using CompileOp = std::function<void(OpCompiler&)>;

// What the graph should know of an op beyond its inputs and outputs.
struct OpTraits {
  std::vector<int> constants;  // inputs that get no gradient even if they depend on a parameter
  std::any attributes;         // its options, for the fusion pass
};

class Graph {
 public:
  Graph();
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // What a step brings in: f32 records, i32 or f32 labels, f32 weights.
  Value input(std::string name, const Shape& shape, DType dtype = DType::f32);
  // Trained; names are unique and end up in checkpoints ("conv.weight").
  Value parameter(std::string name, const Shape& shape, Initializer start);
  // Kept and saved but not trained, such as running averages.
  Value state(std::string name, const Shape& shape, float start);

  // The op catalogue calls this. Output shapes are given; `compile` runs once for each Plan.
  // Throws Error(input) "op name: ..." from shape checks in ops.h, never later.
  std::vector<Value> add_op(std::string op, std::vector<Value> inputs,
                            std::vector<std::pair<Shape, DType>> outputs, CompileOp compile,
                            OpTraits traits = {});
  // The same elements in the same order under another shape: no op, no copy, no gradient of its
  // own (what flows into an alias flows into what it stands for).
  Value add_alias(Value x, const Shape& shape);

  // A slot at the head of the gradient arena: f32 sums that travel with the gradients and are
  // added up over virtual ranks in tree order (loss, counts, batch-norm statistics). `value` is
  // copied into it at the end of forward. `apply`, if given, runs once after the reduction with
  // the summed slot as its only input to update `state` values (OpCompiler::ref).
  void add_slot(std::string name, Value value, CompileOp apply = nullptr);

  // A part of the model whose forward a Plan may run again in backward, so that between the two
  // only what crosses its border is kept (PlanOptions::recompute). What is recorded while a Block
  // lives belongs to it. Blocks follow one another: one inside another throws Error(input).
  class Block {
   public:
    explicit Block(Graph& graph);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

   private:
    Graph& graph_;
  };
  int blocks() const;  // that were marked

  void set_loss(Value loss);  // one element: weighted sum over records; also slot "loss"
  void set_metric(std::string name, Value sum);    // one element; a slot of that name
  void set_output(std::string name, Value value);  // kept alive, readable after forward

  struct Node;
  struct ValueInfo;
  struct Impl;
  Impl& impl() const { return *impl_; }  // for plan.cpp and ops

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace peal
