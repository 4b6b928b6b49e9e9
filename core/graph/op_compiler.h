// The face an op sees when a Plan is compiled. The op's compile function runs once: it asks for the
// tensors it will touch, makes its prepared kernels, and hands over the calls of a step:
//
//   [](OpCompiler& c) {
//     const Ref x = c.in(0), y = c.out(0), dy = c.grad_out(0), dx = c.grad_in(0);
//     Kernels& k = c.kernels();
//     c.forward({x, y}, [=, &k](Run& r) { k.activation(r.stream, kind, slope, r[x], r[y]); });
//     c.backward({y, dy, dx}, [=, &k](Run& r) {
//       k.activation_backward(r.stream, kind, slope, {}, r[y], r[dy], r[dx]);
//     });
//   }
//
// The list before a call says what it touches. Memory is shared by liveness, so a call that
// reaches for a tensor it did not list is stopped with Error(internal).
#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/plan.h"
#include "core/kernels/kernels.h"

namespace peal {

class PlanBuilder;
struct PlanStep;

// A tensor of the plan; its place in memory is decided after every op has been compiled. The
// default Ref is the empty tensor.
struct Ref {
  int index = 0;
  explicit operator bool() const { return index != 0; }
};

// What a call sees while it runs.
class Run {
 public:
  Run(Stream& run_stream, const Tensor& draw_key, const Tensor& scale, const Tensor* tensors,
      const int* bases)
      : stream(run_stream), draws(draw_key), loss_scale(scale), tensors_(tensors), bases_(bases) {}

  Stream& stream;
  // What differs from pass to pass is in memory, as a call may be recorded once and replayed with
  // its arguments as they were. Kernels read it there.
  const Tensor& draws;       // of dropout (kernels.h)
  const Tensor& loss_scale;  // (1): d(loss)/d(loss)

  const Tensor& operator[](Ref ref) const {
    for (const int base : uses_)
      if (base == bases_[ref.index]) return tensors_[ref.index];
    if (ref.index != 0) fail_undeclared();
    return tensors_[0];
  }

  // Before each call: its op's name and the tensors it listed.
  void enter(const std::string& op, std::span<const int> uses) {
    op_ = &op;
    uses_ = uses;
  }
  const std::string* op() const { return op_; }  // of the call at hand

 private:
  [[noreturn]] void fail_undeclared() const;

  const Tensor* tensors_;
  const int* bases_;  // of each Ref, the tensor that it is a view of
  const std::string* op_ = nullptr;
  std::span<const int> uses_;
};

using CallFunction = std::function<void(Run&)>;

class OpCompiler {
 public:
  enum class Order : std::uint8_t {
    row_major,    // reordered if the value has a layout of its own
    any,          // as the value lies, but for padded rows
    padded_rows,  // row-major, but rows may be padded (kernels.h)
  };

  OpCompiler(PlanBuilder& builder, const PlanStep& step) : builder_(builder), step_(step) {}

  // ---- Where and for what ------------------------------------------------------------------
  Kernels& kernels() const;
  bool training() const;
  Precision precision() const;  // for kernels that have a choice
  bool deterministic() const;   // likewise; PlanOptions
  // By PlanOptions::choose; of a convolution those passes alone that the spec says will be called.
  void choose_algorithm(MatmulSpec& product) const;
  void choose_algorithms(Conv2dSpec& convolution, bool needs_dw) const;
  // As what this plan stores activations, for ops whose kernels take them so: f32, bf16 or f16.
  DType stored() const;
  // Tells the random draws of this op apart from every other op's (RandomKey::site).
  std::uint64_t site() const;
  // The pitch for rows of out() as a product leaves them (PlanOptions::pad_rows_to).
  std::int64_t padded_columns(std::int64_t rows, std::int64_t columns) const;
  int inputs() const;
  const Shape& in_shape(int i) const;
  const Shape& out_shape(int i = 0) const;
  bool needs_grad(int i) const;  // is the gradient of input i wanted?
  bool needs_backward() const;   // is any?

  // ---- Tensors -----------------------------------------------------------------------------
  // A value that lies in another order or type is copied once for all that want it as this op does.
  // A value has a layout of its own in its own type only.
  Ref in(int i, Order order = Order::row_major, DType dtype = DType::f32);
  // In that layout, for the shape that the value has.
  Ref in_as(int i, const Layout* layout, DType dtype);
  // In which in(i, order, dtype) arrives.
  const Layout* in_layout(int i, DType dtype = DType::f32, Order order = Order::any) const;
  Ref out(int i = 0, const Layout* layout = nullptr, DType dtype = DType::f32);
  DType dtype(Ref ref) const;
  // The gradient of out(i), in its layout and type; call out(i) first. Only to be read: other
  // gradients of the same numbers may share its memory (grad_in_copy). Empty when nothing that
  // reaches the loss reads output i.
  Ref grad_out(int i = 0);
  // The same for an op that works in place on it: its backward calls may write it, too.
  Ref grad_out_in_place(int i = 0);
  // For an op that adds the last of several consumers' gradients itself: the gradient is then the
  // sum of both. Where there is no such part it is empty while the plan runs.
  Ref grad_out_more(int i = 0);
  // Where the op writes the gradient of input i, once, all of it; empty when it is not wanted. With
  // another order it has the layout of in(i, order, dtype). Sums over several consumers, reorders
  // and aliases are the plan's business.
  Ref grad_in(int i, Order order = Order::row_major, DType dtype = DType::f32);
  // For an op that adds to grad_in(i), which is asked for before, what other consumers, whose
  // backward has run, have for that gradient: grad_in(i) is then the sum, and both are listed by
  // one call. Empty while the plan runs where there is none, or it lies in another order or type.
  // in_place: the sum may take its memory, as a parameter's must: without, calls add up those.
  Ref grad_in_more(int i, bool in_place);
  // For kernels that can write a gradient as f32 or as stored(): f32 where it is a parameter's,
  // which is f32 in the end.
  DType grad_type(int i) const;
  // The same for a call that reads `what` and may work in place: it gets its memory, and has its
  // type, where nobody needs what is there afterwards.
  Ref grad_in_over(int i, Ref what, Order order = Order::row_major);
  Ref grad_in_over(int i, DType dtype = DType::f32, Order order = Order::row_major);  // in(i)
  // The gradient of input i is `whole`, which has its shape, as it is. Both are one memory where
  // nobody writes one of them while the other is read; else a call copies it.
  void grad_in_copy(int i, Ref whole, Order order = Order::row_major);
  // For the op that makes the loss. Whether a forward call of it writes the gradient of input i
  // over `what`, in(i, order): with d(loss)/d(loss) = Run::loss_scale, and no backward call. Not
  // where anybody else reads the loss or, after this op, the input.
  bool grad_in_by_forward(int i, Ref what, Order order = Order::row_major);
  // The same for kernels that always write it: a temporary when it is not wanted.
  Ref grad_in_or_temporary(int i, Order order = Order::row_major, DType dtype = DType::f32);
  // Kept from the first call that lists it to the last: written by forward for backward, or both
  // written and read inside one call.
  Ref memory(const Shape& shape, DType dtype = DType::f32);
  Ref bytes(std::size_t count);    // the same, untyped; empty for 0
  Ref scratch(std::size_t count);  // one area for all ops: worthless after the call; empty for 0
  // The same elements under another shape; listing either lists both. Of row-major tensors, and of
  // padded rows where the rows stay.
  Ref view(Ref x, const Shape& shape);
  Ref ref(Value value);  // any value of the graph, such as a state, row-major

  // ---- Calls -------------------------------------------------------------------------------
  // Of what a backward call lists it may write the gradients of inputs, memory and scratch, and
  // what grad_out_in_place gave; the rest it only reads (PlanOptions::check_reads). Each may be
  // called several times; calls run in the order given, forward calls in the order of recording and
  // backward calls in the reverse. A gradient_in is final after the call that lists it, so an op
  // that writes a weight's gradient in a call before its data's lets it travel early. backward()
  // does nothing when no gradient of the op is wanted.
  void forward(std::vector<Ref> uses, CallFunction call);
  // No later forward call of this op writes them. Otherwise each that lists a tensor made by the op
  // counts as writing it, and runs again where that is made again (PlanOptions::recompute).
  void written(std::initializer_list<Ref> refs);
  void backward(std::vector<Ref> uses, CallFunction call);
  // Instead of forward, in evaluation: out(0) is in(0), without a copy.
  void pass_through();

 private:
  PlanBuilder& builder_;
  const PlanStep& step_;
};

}  // namespace peal
