#include <algorithm>
#include <vector>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"
#include "core/kernels/cpu/vector_matmul.h"
#include "core/kernels/empty_matmul.h"
#include "core/kernels/separate_activation.h"
#include "core/kernels/separate_sums.h"

namespace peal::cpu {
namespace {

using dnnl::memory;

// One b for the whole batch is one taller matrix a, when a's rows follow each other.
MatmulSpec flattened(MatmulSpec spec) {
  if (spec.broadcast_b && !spec.transpose_a) {
    spec.m *= spec.batch;
    spec.batch = 1;
  }
  return spec;
}

using Type = DataType;

// A (batch, rows, columns) view of row-major memory, or of its transpose.
MemoryDesc operand(std::int64_t batch, std::int64_t rows, std::int64_t columns, bool transposed,
                   Type type) {
  const memory::dims strides = {rows * columns, transposed ? 1 : columns, transposed ? rows : 1};
  return {{batch, rows, columns}, type, strides};
}

MemoryDesc matrix(std::int64_t rows, std::int64_t columns, bool transposed, Type type) {
  const memory::dims strides = {transposed ? 1 : columns, transposed ? rows : 1};
  return {{rows, columns}, type, strides};
}

// Operands that arrive in f32 are copied into scratch memory where they shall be rounded.
class PrimitiveMatmul final : public Matmul {
 public:
  PrimitiveMatmul(const MatmulSpec& spec, Type operands) : bias_(spec.bias), addend_(spec.addend) {
    const bool flat = spec.batch == 1;
    const auto view = [&](std::int64_t batch, std::int64_t rows, std::int64_t columns, bool t,
                          Type type = Type::f32) {
      return flat ? matrix(rows, columns, t, type) : operand(batch, rows, columns, t, type);
    };
    const auto a_view = [&](Type type) {
      return view(spec.batch, spec.m, spec.k, spec.transpose_a, type);
    };
    const auto b_view = [&](Type type) {
      return view(spec.broadcast_b ? 1 : spec.batch, spec.k, spec.n, spec.transpose_b, type);
    };
    const MemoryDesc c = view(spec.batch, spec.m, spec.n, false, data_type(spec.result));
    const MemoryDesc bias = bias_ ? view(1, 1, spec.n, false) : MemoryDesc();
    const dnnl::matmul::primitive_desc pd({a_view(operands), b_view(operands), bias, c},
                                          attributes(spec, c), onednn_engine());
    const Type given = data_type(spec.operands);
    prepare(pd, a_view(given), b_view(given), bias, c);
  }

  std::size_t scratch_bytes() const override { return program_.scratch_bytes(); }

  void run(Stream&, const Operands& of, Tensor scratch) override {
    if (bias_ && addend_) {
      program_.run({&of.a, &of.b, &of.c, &of.bias, &of.addend}, scratch);
    } else if (bias_ || addend_) {
      program_.run({&of.a, &of.b, &of.c, bias_ ? &of.bias : &of.addend}, scratch);
    } else {
      program_.run({&of.a, &of.b, &of.c}, scratch);
    }
  }

 private:
  static dnnl::primitive_attr attributes(const MatmulSpec& spec, const MemoryDesc& c) {
    dnnl::primitive_attr attributes = onednn_attributes();
    dnnl::post_ops operations;
    if (spec.addend) operations.append_binary(dnnl::algorithm::binary_add, c);
    if (spec.activation == Activation::relu)
      operations.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
    attributes.set_post_ops(operations);
    return attributes;
  }

  void prepare(const dnnl::matmul::primitive_desc& pd, const MemoryDesc& a_desc,
               const MemoryDesc& b_desc, const MemoryDesc& bias_desc, const MemoryDesc& c_desc) {
    const auto a = program_.bound(a_desc), b = program_.bound(b_desc), c = program_.bound(c_desc);
    const auto a_in = program_.converted(a, pd.src_desc());
    const auto b_in = program_.converted(b, pd.weights_desc());
    std::vector<std::pair<int, Program::Slot>> arguments = {
        {DNNL_ARG_SRC, a_in}, {DNNL_ARG_WEIGHTS, b_in}, {DNNL_ARG_DST, c}};
    if (bias_) arguments.emplace_back(DNNL_ARG_BIAS, program_.bound(bias_desc));
    if (addend_)
      arguments.emplace_back(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                             program_.bound(c_desc));
    program_.add(dnnl::matmul(pd), pd.scratchpad_desc(), arguments);
  }

  bool bias_, addend_;
  Program program_{"matmul"};
};

// oneDNN's BLAS entry. It packs its operands in memory of its own.
class GemmMatmul final : public Matmul {
 public:
  // oneDNN compiles its kernels when they are first used (tens of ms): that is done here.
  explicit GemmMatmul(const MatmulSpec& spec) : spec_(spec) {
    std::vector<float> a(static_cast<std::size_t>(spec.m * spec.k));
    std::vector<float> b(static_cast<std::size_t>(spec.k * spec.n));
    std::vector<float> c(static_cast<std::size_t>(spec.m * spec.n));
    product(a.data(), b.data(), 0.0f, c.data());
  }

  std::size_t scratch_bytes() const override { return 0; }

  void run(Stream&, const Operands& of, Tensor) override {
    const bool starts = spec_.bias || spec_.addend;
    auto* const c = of.c.as<float>();
    for (std::int64_t row = 0; starts && row < spec_.m; ++row) {
      start_row(spec_.bias ? of.bias.as<float>() : nullptr,
                spec_.addend ? of.addend.as<float>() + row * spec_.n : nullptr, c + row * spec_.n);
    }
    product(of.a.as<float>(), of.b.as<float>(), starts ? 1.0f : 0.0f, c);
  }

 private:
  // What is added to a row of the product, of which one may be nullptr.
  void start_row(const float* bias, const float* addend, float* c) const {
    if (bias == nullptr || addend == nullptr) {
      std::copy_n(bias == nullptr ? addend : bias, spec_.n, c);
    } else {
      for (std::int64_t j = 0; j < spec_.n; ++j) c[j] = bias[j] + addend[j];
    }
  }

  // c = a * b + beta * c
  void product(float* a, float* b, float beta, float* c) const {
    const std::int64_t m = spec_.m, n = spec_.n, k = spec_.k;
    with_onednn("matmul", [&] {
      multiply(m, n, k, 1.0f, {a, spec_.transpose_a ? m : k, spec_.transpose_a},
               {b, spec_.transpose_b ? k : n, spec_.transpose_b}, beta, {c, n});
    });
  }

  MatmulSpec spec_;
};

// By shapes alone, so that bits do not depend on a measurement. On Cascade Lake the primitive wins
// where b is transposed (a dense layer's forward pass, by 1.2 to 2 times), gemm elsewhere
// (its gradients, by up to 1.4) and by 2 to 3 times for vectors; see tests/bench/kernels_bench.
bool gemm_is_faster(const MatmulSpec& spec) {
  const bool vector = spec.m == 1 || spec.n == 1;
  return spec.batch == 1 && spec.activation == Activation::none && (!spec.transpose_b || vector);
}

// Rounding costs a pass over both operands, which a product that uses each element only a few times
// does not earn back.
bool rounds(const MatmulSpec& spec) {
  constexpr std::int64_t kFewest = 16;
  return spec.operands == DType::bf16 ||
         (spec.precision == Precision::bf16 && std::min({spec.m, spec.n, spec.k}) >= kFewest);
}

}  // namespace

bool CpuKernels::has_precision(Precision precision) const {
  return precision == Precision::f32 || (precision == Precision::bf16 && onednn_has_bf16());
}

std::unique_ptr<Matmul> CpuKernels::make_matmul(const MatmulSpec& spec) {
  const MatmulSpec flat = flattened(spec);
  if (flat.sums != OperandSums::none) return make_separate_sums(*this, flat);
  if (flat.activation == Activation::gelu_tanh) return make_separate_activation(*this, flat);
  if (is_empty(flat)) return make_empty_matmul(*this, flat);
  const bool rounded = rounds(flat);
  if (VectorMatmul::supports(flat)) return std::make_unique<VectorMatmul>(flat);  // never rounds
  if (!rounded && gemm_is_faster(flat)) return std::make_unique<GemmMatmul>(flat);
  return with_onednn("make_matmul", [&] {
    return std::make_unique<PrimitiveMatmul>(flat, rounded ? Type::bf16 : Type::f32);
  });
}

}  // namespace peal::cpu
