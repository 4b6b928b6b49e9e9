// What the compile functions of ops share, and those of ops that also exist in a fused form
// (fusion.cpp).
#pragma once

#include <memory>

#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"
#include "core/kernels/kernels.h"

namespace peal {

inline constexpr auto kAny = OpCompiler::Order::any, kRows = OpCompiler::Order::row_major;

Conv2dSpec make_spec(const Shape& x, const Shape& weight, bool bias, const Conv2dOptions& options);
Pool2dSpec make_spec(PoolKind kind, const Shape& x, const PoolOptions& options);

// The gradient of what `activation`, a part of the op, made y of: in the place of y's gradient.
Ref grad_before(OpCompiler& c, Activation activation, Ref y);
// `activation`: none or relu, applied to the result.
CompileOp compile_conv2d(const Conv2dOptions& options, Activation activation);
CompileOp compile_dense(Activation activation);
void compile_affine_add(OpCompiler& c);  // y = affine + what is the last input of the node
// y = affine(gelu_tanh(affine(x))), plus the last input of the node where it adds. Inputs: x, then
// weight and bias of each.
CompileOp compile_perceptron(bool adds);
// y = activation(batch_norm(x) + residual); a residual is the last input of the node.
struct BatchNormForm {
  float epsilon = 0;
  Activation activation = Activation::none;
  bool residual = false;
};
CompileOp compile_batch_norm(const BatchNormForm& form);
CompileOp compile_conv_relu_pool(std::shared_ptr<ConvReluPool> kernel);

}  // namespace peal
