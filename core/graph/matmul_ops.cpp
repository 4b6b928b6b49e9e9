#include <algorithm>

#include "core/graph/fused_ops.h"
#include "core/graph/op_checks.h"
#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"

namespace peal {
namespace {

// A prepared product and what it needs: c = a * b + bias. Operands are stored.
struct Product {
  std::shared_ptr<Matmul> kernel;
  Ref scratch;
};

Product make_product(OpCompiler& c, Ref result, MatmulSpec spec) {
  spec.precision = c.precision();
  spec.operands = c.stored();
  if (result) spec.result = c.dtype(result);
  c.choose_algorithm(spec);
  const std::shared_ptr<Matmul> kernel = c.kernels().make_matmul(spec);
  return {kernel, c.scratch(kernel->scratch_bytes())};
}

// Of the tensors of a product those that there are.
struct ProductRefs {
  Ref a, b, c, bias, addend, before, sums;
};

void run(Run& r, const Product& product, const ProductRefs& of) {
  product.kernel->run(
      r.stream, {r[of.a], r[of.b], r[of.c], r[of.bias], r[of.addend], r[of.before], r[of.sums]},
      r[product.scratch]);
}

// Adds the call that computes the gradients of a weight, of.c, and of a bias, of.sums, which is the
// sums of one of both operands. Either may not be asked for.
void weight_gradients(OpCompiler& c, MatmulSpec spec, const ProductRefs& of, OperandSums sums) {
  if (of.c) {
    if (of.sums) spec.sums = sums;
    const Product product = make_product(c, of.c, spec);
    c.backward({of.a, of.b, of.c, of.sums, product.scratch}, [=](Run& r) { run(r, product, of); });
  } else if (of.sums) {
    Kernels& k = c.kernels();
    const bool of_a = sums == OperandSums::a;
    const std::int64_t columns = of_a ? spec.m : spec.n;
    const Ref dy = c.view(of_a ? of.a : of.b, {spec.k, columns}),
              db = c.view(of.sums, {1, columns});
    c.backward({dy, db}, [=, &k](Run& r) { k.reduce_sum(r.stream, r[dy], 1, r[db]); });
  }
}

// a (batch, m, k), b (batch, k, n), y (batch, m, n). One b for all is one long product: its batch
// is folded into m.
void compile_matmul(OpCompiler& c) {
  const Shape &as = c.in_shape(0), &bs = c.in_shape(1);
  const std::int64_t k = bs[-2], n = bs[-1];
  const std::int64_t rows = as.numel() / std::max<std::int64_t>(k, 1);
  const std::int64_t batch = bs.rank() == 2 ? 1 : bs.numel() / std::max<std::int64_t>(k * n, 1);
  const std::int64_t m = rows / std::max<std::int64_t>(batch, 1);
  const DType t = c.stored();
  const Ref a = c.in(0, kRows, t), b = c.in(1, kRows, t), y = c.out(0, nullptr, t);
  const Product forward = make_product(c, y, {.batch = batch, .m = m, .n = n, .k = k});
  c.forward({a, b, y, forward.scratch}, [=](Run& r) { run(r, forward, {a, b, y}); });

  const Ref dy = c.grad_out();
  if (c.needs_grad(1)) {  // db (k, n) = a^T (k, m) * dy (m, n)
    const Ref db = c.grad_in(1, kRows, c.grad_type(1));
    const Product product =
        make_product(c, db, {.batch = batch, .m = k, .n = n, .k = m, .transpose_a = true});
    c.backward({a, dy, db, product.scratch}, [=](Run& r) { run(r, product, {a, dy, db}); });
  }
  if (c.needs_grad(0)) {  // da (m, k) = dy (m, n) * b^T (n, k)
    const Ref da = c.grad_in(0, kRows, c.grad_type(0));
    const Product product =
        make_product(c, da, {.batch = batch, .m = m, .n = k, .k = n, .transpose_b = true});
    c.backward({b, dy, da, product.scratch}, [=](Run& r) { run(r, product, {dy, b, da}); });
  }
}

// y (rows, O) = x (rows, I) * w (I, O) + bias (O). w and bias are inputs `weight` and the next.
struct Affine {
  std::int64_t rows, in, out;
  int weight;
  Ref x, w, bias;
};

Affine make_affine(OpCompiler& c, Ref x, int weight) {
  const std::int64_t in = c.in_shape(weight)[0], out = c.in_shape(weight)[1];
  const std::int64_t rows = c.out_shape().numel() / std::max<std::int64_t>(c.out_shape()[-1], 1);
  return {rows, in, out, weight, x, c.in(weight, kRows, c.stored()), c.in(weight + 1)};
}

// `of`: what there is beside x, w and bias.
void affine_forward(OpCompiler& c, const Affine& l, ProductRefs of, Activation activation) {
  const Product product = make_product(c, of.c,
                                       {.m = l.rows,
                                        .n = l.out,
                                        .k = l.in,
                                        .bias = true,
                                        .addend = bool(of.addend),
                                        .activation = activation,
                                        .keeps_before = bool(of.before)});
  of.a = l.x;
  of.b = l.w;
  of.bias = l.bias;
  c.forward({of.a, of.b, of.bias, of.addend, of.before, of.c, product.scratch},
            [=](Run& r) { run(r, product, of); });
}

// Of its weight and its bias.
void affine_gradients(OpCompiler& c, const Affine& l, Ref dy) {
  ProductRefs of{.a = l.x, .b = dy};  // dw (I, O) = x^T (I, rows) * dy (rows, O)
  if (c.needs_grad(l.weight)) of.c = c.grad_in(l.weight, kRows, c.grad_type(l.weight));
  if (c.needs_grad(l.weight + 1)) of.sums = c.grad_in(l.weight + 1);
  weight_gradients(c, {.m = l.in, .n = l.out, .k = l.rows, .transpose_a = true}, of,
                   OperandSums::b);
}

// dx (rows, I) = dy (rows, O) * w^T (O, I); with `before`, which gelu_tanh made x of, its gradient.
void affine_data_gradient(OpCompiler& c, const Affine& l, Ref dy, Ref dx, Ref before = {}) {
  const Product product =
      make_product(c, dx,
                   {.m = l.rows,
                    .n = l.in,
                    .k = l.out,
                    .transpose_b = true,
                    .activation = before ? Activation::gelu_tanh : Activation::none,
                    .slope = bool(before)});
  const ProductRefs of{.a = dy, .b = l.w, .c = dx, .before = before};
  c.backward({of.a, of.b, of.c, before, product.scratch}, [=](Run& r) { run(r, product, of); });
}

// x, weight, bias and what is added, if anything
void compile_affine(OpCompiler& c, bool adds) {
  const DType t = c.stored();
  const Affine layer = make_affine(c, c.in(0, kRows, t), 1);
  const Ref addend = adds ? c.in(3, kRows, t) : Ref{}, y = c.out(0, nullptr, t);
  affine_forward(c, layer, {.c = y, .addend = addend}, Activation::none);

  const Ref dy = c.grad_out();
  affine_gradients(c, layer, dy);
  if (c.needs_grad(0)) affine_data_gradient(c, layer, dy, c.grad_in(0, kRows, c.grad_type(0)));
  // What was added has dy for its gradient, in its place at best.
  if (adds && c.needs_grad(3)) c.grad_in_copy(3, dy, kRows);
}

// The first rows of x, or those behind them.
Tensor rows_of(Tensor x, std::int64_t begin, std::int64_t end) {
  const std::int64_t row = x.numel() / x.shape[0];
  x.data = x.as<std::byte>() + static_cast<std::size_t>(begin * row) * size_of(x.dtype);
  x.shape[0] = end - begin;
  return x;
}

// Input i (n, ...) as `dtype` with rows of zeros behind, `rows` in all.
Ref in_with_zeros_behind(OpCompiler& c, int i, std::int64_t rows, DType dtype) {
  Kernels& k = c.kernels();
  const Ref x = c.in(i, kRows, c.grad_type(i));
  Shape shape = c.in_shape(i);
  const std::int64_t n = shape[0];
  shape[0] = rows;
  const Ref all = c.memory(shape, dtype);
  const std::shared_ptr<Reorder> convert =
      k.make_reorder(c.in_shape(i), {nullptr, c.dtype(x)}, {nullptr, dtype});
  c.forward({x, all}, [=, &k](Run& r) {
    convert->run(r.stream, r[x], rows_of(r[all], 0, n), {});
    k.fill(r.stream, rows_of(r[all], n, rows), 0);
  });
  c.written({all});
  return all;
}

// Adds a call that copies the first rows of what `from` is to a gradient.
void first_rows_to(OpCompiler& c, Ref from, Ref to) {
  Kernels& k = c.kernels();
  c.backward({from, to},
             [=, &k](Run& r) { k.copy(r.stream, rows_of(r[from], 0, r[to].shape[0]), r[to]); });
}

// As compile_dense, where the result's rows are padded from O to P columns: products see matrices
// of P columns, and a weight that has P rows of which the last are 0. So are the last columns of
// the result, and of its gradient by contract (layout.h).
void compile_padded_dense(OpCompiler& c, Activation activation, std::int64_t padded) {
  Kernels& k = c.kernels();
  const bool has_bias = c.inputs() == 3;
  const std::int64_t rows = c.in_shape(0)[0], in = c.in_shape(0)[1];
  const DType t = c.stored();
  const Ref x = c.in(0, kRows, t), w = in_with_zeros_behind(c, 1, padded, t);
  const Ref bias = has_bias ? in_with_zeros_behind(c, 2, padded, DType::f32) : Ref{};
  const Ref y = c.out(0, padded_rows(c.out_shape(), t, padded), t);
  const auto whole = [=](const Tensor& part) {
    Tensor matrix = part;
    matrix.layout = nullptr;
    matrix.shape = {rows, padded};
    return matrix;
  };
  MatmulSpec spec{.m = rows, .n = padded, .k = in, .transpose_b = true};
  spec.bias = has_bias;
  spec.activation = activation;
  const Product forward = make_product(c, y, spec);
  c.forward({x, w, bias, y, forward.scratch}, [=](Run& r) {
    forward.kernel->run(r.stream, {r[x], r[w], whole(r[y]), r[bias]}, r[forward.scratch]);
  });

  const Ref dy = grad_before(c, activation, y);
  if (c.needs_grad(1)) {  // dw (P, I) = dy^T (P, B) * x (B, I), of which O rows are dw
    const Ref dw = c.grad_in(1, kRows, c.grad_type(1)), all = c.memory({padded, in}, c.dtype(dw));
    const Product product =
        make_product(c, dw, {.m = padded, .n = in, .k = rows, .transpose_a = true});
    c.backward({x, dy, all, product.scratch}, [=](Run& r) {
      product.kernel->run(r.stream, {whole(r[dy]), r[x], r[all]}, r[product.scratch]);
    });
    first_rows_to(c, all, dw);
  }
  if (has_bias && c.needs_grad(2)) {
    const Ref db = c.grad_in(2), all = c.memory({padded}), sums = c.view(all, {1, padded});
    c.backward({dy, sums}, [=, &k](Run& r) { k.reduce_sum(r.stream, whole(r[dy]), 1, r[sums]); });
    first_rows_to(c, all, db);
  }
  if (c.needs_grad(0)) {  // dx (B, I) = dy (B, P) * w (P, I)
    const Ref dx = c.grad_in(0, kRows, c.grad_type(0));
    const Product product = make_product(c, dx, {.m = rows, .n = in, .k = padded});
    c.backward({w, dy, dx, product.scratch}, [=](Run& r) {
      product.kernel->run(r.stream, {whole(r[dy]), r[w], r[dx]}, r[product.scratch]);
    });
  }
}

}  // namespace

void compile_affine_add(OpCompiler& c) {
  compile_affine(c, /*adds=*/true);
}

CompileOp compile_perceptron(bool adds) {
  return [=](OpCompiler& c) {
    const DType t = c.stored();
    const Affine first = make_affine(c, c.in(0, kRows, t), 1);
    const Shape hidden = {first.rows, first.out};
    const Ref h = c.memory(hidden, t), before = c.needs_backward() ? c.memory(hidden, t) : Ref{};
    const Affine second = make_affine(c, h, 3);
    affine_forward(c, first, {.c = h, .before = before}, Activation::gelu_tanh);
    c.written({h, before});
    const Ref addend = adds ? c.in(5, kRows, t) : Ref{}, y = c.out(0, nullptr, t);
    affine_forward(c, second, {.c = y, .addend = addend}, Activation::none);

    const Ref dy = c.grad_out();
    affine_gradients(c, second, dy);
    if (c.needs_grad(0) || c.needs_grad(1) || c.needs_grad(2)) {
      const Ref dbefore = c.memory(hidden, t);
      affine_data_gradient(c, second, dy, dbefore, before);
      affine_gradients(c, first, dbefore);
      if (c.needs_grad(0))
        affine_data_gradient(c, first, dbefore, c.grad_in(0, kRows, c.grad_type(0)));
    }
    if (adds && c.needs_grad(5)) c.grad_in_copy(5, dy, kRows);
  };
}

CompileOp compile_dense(Activation activation) {
  return [=](OpCompiler& c) {
    const bool has_bias = c.inputs() == 3;
    const std::int64_t rows = c.in_shape(0)[0], in = c.in_shape(0)[1], out = c.in_shape(1)[0];
    const std::int64_t padded = c.padded_columns(rows, out);
    if (padded != out) return compile_padded_dense(c, activation, padded);
    const DType t = c.stored();
    const Ref x = c.in(0, kRows, t), w = c.in(1, kRows, t), bias = has_bias ? c.in(2) : Ref{};
    const Ref y = c.out(0, nullptr, t);
    const Product forward = make_product(c, y,
                                         {.m = rows,
                                          .n = out,
                                          .k = in,
                                          .transpose_b = true,
                                          .bias = has_bias,
                                          .activation = activation});
    c.forward({x, w, bias, y, forward.scratch}, [=](Run& r) { run(r, forward, {x, w, y, bias}); });

    const Ref dy = grad_before(c, activation, y);
    ProductRefs of{.a = dy, .b = x};  // dw (O, I) = dy^T (O, B) * x (B, I)
    if (c.needs_grad(1)) of.c = c.grad_in(1, kRows, c.grad_type(1));
    if (has_bias && c.needs_grad(2)) of.sums = c.grad_in(2);
    weight_gradients(c, {.m = out, .n = in, .k = rows, .transpose_a = true}, of, OperandSums::a);
    if (c.needs_grad(0)) {  // dx (B, I) = dy (B, O) * w (O, I)
      const Ref dx = c.grad_in(0, kRows, c.grad_type(0));
      const Product product = make_product(c, dx, {.m = rows, .n = in, .k = out});
      c.backward({w, dy, dx, product.scratch}, [=](Run& r) { run(r, product, {dy, w, dx}); });
    }
  };
}

Value affine(Value x, Value weight, Value bias) {
  const char* op = "affine";
  check_f32(op, "x", x);
  check_rank(op, "weight", weight, 2);
  check(x.shape().rank() >= 2, op, "x wants 2 dimensions or more, got shape ", x.shape());
  check(x.shape()[-1] == weight.shape()[0], op, "weight ", weight.shape(), " wants ",
        weight.shape()[0], " features, x ", x.shape(), " has ", x.shape()[-1]);
  check_shape(op, "bias", bias, {weight.shape()[1]});
  Shape shape = x.shape();
  shape[-1] = weight.shape()[1];
  return record(op, {x, weight, bias}, shape,
                [](OpCompiler& c) { compile_affine(c, /*adds=*/false); });
}

Value matmul(Value a, Value b) {
  const char* op = "matmul";
  check_f32(op, "a", a);
  check_f32(op, "b", b);
  const Shape &as = a.shape(), &bs = b.shape();
  check(as.rank() >= 2 && bs.rank() >= 2, op, "wants 2 dimensions or more, got a ", as, " and b ",
        bs);
  check(as[-1] == bs[-2], op, "b ", bs, " wants ", bs[-2], " columns, a ", as, " has ", as[-1]);
  const bool same_batch =
      as.rank() == bs.rank() && std::equal(as.begin(), as.end() - 2, bs.begin());
  check(bs.rank() == 2 || same_batch, op, "b ", bs,
        " wants two dimensions or the leading dimensions of a ", as);
  Shape shape = as;
  shape[-1] = bs[-1];
  return record(op, {a, b}, shape, compile_matmul);
}

Value dense(Value x, Value weight, Value bias) {
  const char* op = "dense";
  check_rank(op, "x", x, 2);
  check_rank(op, "weight", weight, 2);
  check(x.shape()[1] == weight.shape()[1], op, "weight ", weight.shape(), " wants ",
        weight.shape()[1], " features, x ", x.shape(), " has ", x.shape()[1]);
  std::vector<Value> inputs = {x, weight};
  if (bias.valid()) {
    check_shape(op, "bias", bias, {weight.shape()[0]});
    inputs.push_back(bias);
  }
  return record(op, inputs, {x.shape()[0], weight.shape()[0]}, compile_dense(Activation::none));
}

}  // namespace peal
