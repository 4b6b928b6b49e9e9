#include "core/graph/op_compiler.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/graph/graph_impl.h"
#include "core/graph/plan_builder.h"

namespace peal {

void Run::fail_undeclared() const {
  fail_internal(*op_, "a call touches a tensor that is not in its list (OpCompiler::forward)");
}

Kernels& OpCompiler::kernels() const {
  return builder_.kernels_;
}

bool OpCompiler::training() const {
  return builder_.training_;
}

Precision OpCompiler::precision() const {
  return builder_.precision_;
}

bool OpCompiler::deterministic() const {
  return builder_.deterministic_;
}

void OpCompiler::choose_algorithm(MatmulSpec& product) const {
  if (builder_.choose_.product) product.algorithm = builder_.choose_.product(product);
}

void OpCompiler::choose_algorithms(Conv2dSpec& convolution, bool needs_dw) const {
  if (!builder_.choose_.convolution) return;
  const auto choose = [&](ConvPass pass) {
    convolution.algorithms[static_cast<int>(pass)] =
        builder_.choose_.convolution(convolution, pass);
  };
  choose(ConvPass::forward);
  if (needs_dw) choose(ConvPass::backward_weights);
  if (convolution.needs_dx) choose(ConvPass::backward_data);
}

DType OpCompiler::stored() const {
  return stored_type(builder_.precision_);
}

std::uint64_t OpCompiler::site() const {
  constexpr std::uint64_t kOps = std::uint64_t{0x6f70} << 48;  // apart from every other draw
  return kOps | step_.site;
}

std::int64_t OpCompiler::padded_columns(std::int64_t rows, std::int64_t columns) const {
  const std::int64_t to = builder_.pad_rows_to_;
  if (to > 0) return (columns + to - 1) / to * to;
  return kernels().padded_columns(rows, columns, stored());
}

int OpCompiler::inputs() const {
  return static_cast<int>(step_.node->inputs.size());
}

const Shape& OpCompiler::in_shape(int i) const {
  const int value = step_.node->inputs[static_cast<std::size_t>(i)];
  return builder_.impl_.values[static_cast<std::size_t>(value)].shape;
}

const Shape& OpCompiler::out_shape(int i) const {
  const int value = step_.outputs[static_cast<std::size_t>(i)];
  return builder_.impl_.values[static_cast<std::size_t>(value)].shape;
}

bool OpCompiler::needs_grad(int i) const {
  return training() && builder_.flow_.needs_grad(*step_.node, i);
}

bool OpCompiler::needs_backward() const {
  return training() && builder_.flow_.needs_backward(*step_.node);
}

Ref OpCompiler::in(int i, Order order, DType dtype) {
  if (step_.node == nullptr) return {builder_.slot_entry_};
  return {builder_.value_entry(step_.node->inputs[static_cast<std::size_t>(i)], order, dtype)};
}

Ref OpCompiler::in_as(int i, const Layout* layout, DType dtype) {
  if (layout == nullptr) return in(i, Order::row_major, dtype);
  return {builder_.value_entry_in(step_.node->inputs[static_cast<std::size_t>(i)], layout, dtype)};
}

const Layout* OpCompiler::in_layout(int i, DType dtype, Order order) const {
  const int value = step_.node->inputs[static_cast<std::size_t>(i)];
  return builder_.entry(builder_.value_entry(value, order, dtype)).tensor.layout;
}

Ref OpCompiler::out(int i, const Layout* layout, DType dtype) {
  return {builder_.output_entry(step_.outputs[static_cast<std::size_t>(i)], {layout, dtype})};
}

DType OpCompiler::dtype(Ref ref) const {
  return builder_.entry(ref.index).tensor.dtype;
}

Ref OpCompiler::grad_out(int i) {
  const int value = step_.outputs[static_cast<std::size_t>(i)];
  if (!training() || !builder_.flow_.flows(value)) return {};
  return {builder_.gradient_entry(value)};
}

Ref OpCompiler::grad_out_in_place(int i) {
  const Ref whole = grad_out(i);
  if (whole) builder_.step_in_place_.push_back(whole.index);
  return whole;
}

Ref OpCompiler::grad_out_more(int i) {
  const Ref whole = grad_out(i);
  if (!whole) return {};
  const Tensor like = builder_.entry(whole.index).tensor;
  int& more = builder_.place(step_.outputs[static_cast<std::size_t>(i)]).more;
  if (more == 0) more = builder_.add_entry(like.shape, like.dtype, like.layout, -1);
  return {more};
}

Ref OpCompiler::grad_in(int i, Order order, DType dtype) {
  if (!needs_grad(i)) return {};
  int& target = builder_.step_targets_[static_cast<std::size_t>(i)];
  if (target != 0) return {target};
  const int root = builder_.impl_.root(step_.node->inputs[static_cast<std::size_t>(i)]);
  const Layout* layout = order == Order::row_major ? nullptr : in_layout(i, dtype, order);
  target = builder_.add_entry(in_shape(i), dtype, layout, -1);
  builder_.entry(target).target = root;
  ++builder_.place(root).pending;
  return {target};
}

Ref OpCompiler::grad_in_more(int i, bool in_place) {
  if (!needs_grad(i)) return {};
  const int target = builder_.step_targets_[static_cast<std::size_t>(i)];
  if (target == 0) fail_internal(step_.op, "asks what it adds to a gradient before the gradient");
  const Tensor like = builder_.entry(target).tensor;
  const int more = builder_.add_entry(like.shape, like.dtype, like.layout, -1);
  builder_.entry(target).more = more;
  builder_.entry(target).in_place = in_place;
  return {more};
}

DType OpCompiler::grad_type(int i) const {
  const int value = step_.node->inputs[static_cast<std::size_t>(i)];
  const bool parameter = builder_.impl_.root_info(value).kind == Graph::ValueInfo::Kind::parameter;
  return parameter ? DType::f32 : stored();
}

Ref OpCompiler::grad_in_over(int i, DType dtype, Order order) {
  return grad_in_over(i, in(i, order, dtype), order);
}

Ref OpCompiler::grad_in_over(int i, Ref what, Order order) {
  const Ref gradient = grad_in(i, order, dtype(what));
  if (gradient) builder_.shares_.push_back({what.index, gradient.index, /*copy=*/false});
  return gradient;
}

void OpCompiler::grad_in_copy(int i, Ref whole, Order order) {
  const Ref gradient = grad_in(i, order, dtype(whole));
  if (!gradient) return;
  builder_.shares_.push_back({whole.index, gradient.index, /*copy=*/true});
  Kernels& k = kernels();
  PlanCall call = builder_.make_call("copy", {whole, gradient},
                                     [=, &k](Run& r) { k.copy(r.stream, r[whole], r[gradient]); });
  call.copies = true;
  builder_.add_backward_call(std::move(call));
}

bool OpCompiler::grad_in_by_forward(int i, Ref what, Order order) {
  if (!needs_grad(i) || !builder_.loss_may_write_over(step_, i, what.index)) return false;
  grad_in_copy(i, what, order);
  builder_.place(step_.node->inputs[static_cast<std::size_t>(i)]).is_gradient = true;
  return true;
}

Ref OpCompiler::grad_in_or_temporary(int i, Order order, DType dtype) {
  if (needs_grad(i)) return grad_in(i, order, dtype);
  if (!needs_backward()) return {};
  return {builder_.add_memory(in_shape(i), dtype,
                              order == Order::row_major ? nullptr : in_layout(i, dtype, order))};
}

Ref OpCompiler::memory(const Shape& shape, DType dtype) {
  return {builder_.add_memory(shape, dtype)};
}

Ref OpCompiler::bytes(std::size_t count) {
  if (count == 0) return {};
  return memory({static_cast<std::int64_t>(count)}, DType::u8);
}

Ref OpCompiler::scratch(std::size_t count) {
  if (count == 0) return {};
  builder_.scratch_bytes_ = std::max(builder_.scratch_bytes_, count);
  return {builder_.add_entry({static_cast<std::int64_t>(count)}, DType::u8, nullptr,
                             builder_.scratch_storage_)};
}

Ref OpCompiler::view(Ref x, const Shape& shape) {
  if (!x) return {};
  return {builder_.view(x.index, shape)};
}

Ref OpCompiler::ref(Value value) {
  return {builder_.value_entry(value.id(), Order::row_major, DType::f32)};
}

void OpCompiler::forward(std::vector<Ref> uses, CallFunction call) {
  builder_.add_call(builder_.make_call(step_.op, uses, std::move(call)));
}

void OpCompiler::written(std::initializer_list<Ref> refs) {
  for (const Ref ref : refs) builder_.storage_of(ref.index).written = true;
}

void OpCompiler::backward(std::vector<Ref> uses, CallFunction call) {
  if (step_.node == nullptr || !needs_backward()) return;
  builder_.add_backward_call(builder_.make_call(step_.op + " backward", uses, std::move(call)));
}

void OpCompiler::pass_through() {
  if (training()) fail_internal(step_.op, "pass_through is for evaluation");
  const int value = step_.node->inputs[0];
  const DType as_made = builder_.entry(builder_.place(value).entry).tensor.dtype;
  builder_.place(step_.outputs[0]).entry = builder_.value_entry(value, Order::any, as_made);
}

}  // namespace peal
