#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/base/error.h"
#include "core/device/cuda/cuda_device.h"
#include "core/device/cuda/library.h"
#include "core/kernels/cuda/bias.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/cudnn.h"
#include "core/kernels/empty_matmul.h"
#include "core/kernels/separate_activation.h"
#include "core/kernels/separate_sums.h"

namespace peal::cuda {
namespace {

constexpr std::uint64_t kMostScratch = 32 << 20;  // bytes; what NVIDIA advises on Hopper
constexpr std::size_t kScratchAlignment = 256;
constexpr std::uint32_t kOperandAlignment = 16;  // bytes, of each operand

// cuBLASLt's functions, from the library that is opened when the first product is made.
struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCapGetAttribute) capability;
  decltype(&cublasLtMatmulDescCreate) create_product;
  decltype(&cublasLtMatmulDescDestroy) destroy_product;
  decltype(&cublasLtMatmulDescSetAttribute) set_product;
  decltype(&cublasLtMatrixLayoutCreate) create_matrix;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_matrix;
  decltype(&cublasLtMatrixLayoutSetAttribute) set_matrix;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;

  explicit CublasLt(const Device& device) {
    const std::string name = cat("libcublasLt.so.", CUBLAS_VER_MAJOR);
    void* const library = open_library(device, name);
    const auto find = [&](const char* function, auto& found) {
      find_function(library, name, function, found);
    };
    find("cublasLtCreate", create);
    find("cublasLtGetVersion", version);
    find("cublasLtGetStatusString", status_string);
    find("cublasLtMatmul", matmul);
    find("cublasLtMatmulAlgoGetHeuristic", heuristic);
    find("cublasLtMatmulAlgoCapGetAttribute", capability);
    find("cublasLtMatmulDescCreate", create_product);
    find("cublasLtMatmulDescDestroy", destroy_product);
    find("cublasLtMatmulDescSetAttribute", set_product);
    find("cublasLtMatrixLayoutCreate", create_matrix);
    find("cublasLtMatrixLayoutDestroy", destroy_matrix);
    find("cublasLtMatrixLayoutSetAttribute", set_matrix);
    find("cublasLtMatmulPreferenceCreate", create_preference);
    find("cublasLtMatmulPreferenceDestroy", destroy_preference);
    find("cublasLtMatmulPreferenceSetAttribute", set_preference);
  }

  void check(cublasStatus_t status, const char* call) const {
    if (status != CUBLAS_STATUS_SUCCESS) fail_internal("matmul", call, ": ", status_string(status));
  }
};

// Never freed: at the end of the program CUDA may be gone before it.
const CublasLt& cublas_lt(const Device& device) {
  static const auto& functions = *new CublasLt(device);
  return functions;
}

// One a device; any thread may use it.
cublasLtHandle_t handle_of(const Device& device) {
  static std::mutex mutex;
  static auto& of_index = *new std::map<int, cublasLtHandle_t>;
  const CublasLt& lt = cublas_lt(device);
  const std::lock_guard lock(mutex);
  const auto known = of_index.find(device.index);
  if (known != of_index.end()) return known->second;
  const Current current(device);
  cublasLtHandle_t handle = nullptr;
  lt.check(lt.create(&handle), "cublasLtCreate");
  return of_index[device.index] = handle;
}

// A description that cuBLASLt makes and destroys.
template <typename Handle>
class Described {
 public:
  explicit Described(cublasStatus_t (*destroy)(Handle)) : destroy_(destroy) {}
  ~Described() {
    if (handle_ != nullptr) destroy_(handle_);
  }
  Described(const Described&) = delete;
  Described& operator=(const Described&) = delete;

  Handle* out() { return &handle_; }
  operator Handle() const { return handle_; }  // NOLINT: stands for it

 private:
  cublasStatus_t (*destroy_)(Handle);
  Handle handle_ = nullptr;
};

// One b for the whole batch is one taller matrix a, when a's rows follow each other.
MatmulSpec flattened(MatmulSpec spec) {
  if (spec.broadcast_b && !spec.transpose_a) {
    spec.m *= spec.batch;
    spec.batch = 1;
  }
  return spec;
}

cudaDataType_t cublas_type(DType dtype) {
  if (dtype == DType::bf16) return CUDA_R_16BF;
  return dtype == DType::f16 ? CUDA_R_16F : CUDA_R_32F;
}

std::size_t rounded_up(std::size_t bytes) {
  return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
}

std::byte* aligned_start(const Tensor& scratch) {
  const auto start = reinterpret_cast<std::uintptr_t>(scratch.data);
  return scratch.as<std::byte>() +
         (kScratchAlignment - start % kScratchAlignment) % kScratchAlignment;
}

// A row-major matrix.
struct Matrix {
  DType dtype;
  std::int64_t batch, rows, columns;  // batch 1: one for the whole batch, or there is none
};

// cuBLASLt counts in columns: a row-major matrix is its transpose there, so c^T = b^T a^T is what
// it computes, with b first. The algorithm is the spec's of its heuristics', the first unless a
// table names another (algorithm_choices.h), and never one that this run has measured, so that the
// choice and the bits are the same in every run on the same chip and library.
class LtMatmul final : public Matmul {
 public:
  LtMatmul(const Device& device, const MatmulSpec& spec)
      : device_(device), spec_(spec), lt_(cublas_lt(device)), handle_(handle_of(device)) {
    const Current current(device);
    describe_product();
    describe_matrices();
    fused_ = can_fuse();
    if (fused_ && !choose_algorithm()) fused_ = false;
    if (!fused_ && !is_gelu() && (has_sums() || !choose_algorithm())) {
      fail_input("matmul", to_string(device), " has no deterministic algorithm ", spec.algorithm,
                 " of ", name_of(spec.operands), " for batch ", spec.batch, ", m ", spec.m, ", n ",
                 spec.n, ", k ", spec.k,
                 spec.algorithm > 0 ? "; a table of algorithms has named it" : "");
    }
    if (fused_ && spec.bias && spec.result != DType::f32)
      round_bias_ = peal::kernels(device).make_reorder({spec.n}, {}, {nullptr, spec.result});
    arrange_scratch();
  }

  // Not of a gelu_tanh that needs a kernel of its own.
  bool does_all() const { return fused_ || !is_gelu(); }

  // Whether the product becomes halves before the bias is added to it.
  bool rounds_before_bias() const { return !fused_ && spec_.bias && spec_.result != DType::f32; }

  std::size_t scratch_bytes() const override {
    return scratch_bytes_ == 0 ? 0 : scratch_bytes_ + kScratchAlignment;
  }

  void run(Stream& s, const Operands& of, Tensor scratch) override {
    const Tensor &a = of.a, &b = of.b, &c = of.c;
    for (const Tensor* x : {&a, &b, &c}) check_alignment(*x);
    std::byte* const own = aligned_start(scratch);
    if (fused_ && spec_.bias) set_bias(s, of.bias, own);
    if (uses_before()) set_before(of.before);
    if (has_sums()) set_sums(of.sums);
    const float one = 1.0f, beta = spec_.addend ? 1.0f : 0.0f;
    const void* const added = spec_.addend ? start_sum(s, of.addend, c) : c.data;
    {
      const Current current(device_);
      lt_.check(lt_.matmul(handle_, product_, &one, b.data, b_, a.data, a_, &beta, added, c_,
                           c.data, c_, &algorithm_, workspace_ == 0 ? nullptr : own, workspace_,
                           static_cast<cudaStream_t>(s.handle())),
                "cublasLtMatmul");
    }
    if (fused_) return;
    add_bias(s, c, spec_.bias ? of.bias.as<float>() : nullptr,
             {.records = spec_.batch * spec_.m, .channels = spec_.n, .inner = 1}, spec_.activation);
  }

 private:
  bool is_gelu() const { return spec_.activation == Activation::gelu_tanh; }
  bool has_sums() const { return spec_.sums != OperandSums::none; }
  bool uses_before() const { return spec_.keeps_before || spec_.slope; }

  // Where rows do not begin at 16 bytes, cuBLASLt's kernels that add a bias have been seen to round
  // the product of bf16 before they do. How exact its gelu is it does not say: f32 has our own.
  bool can_fuse() const {
    constexpr std::int64_t kAligned = 8;
    if (has_sums()) return true;
    if (!spec_.bias && !is_gelu()) return spec_.activation != Activation::none;
    if (spec_.result == DType::f32) return !is_gelu();
    const std::int64_t m = spec_.m, n = spec_.n, k = spec_.k;
    return (spec_.transpose_a ? m : k) % kAligned == 0 &&
           (spec_.transpose_b ? k : n) % kAligned == 0 && n % kAligned == 0;
  }

  template <typename Value>
  void set_product(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    lt_.check(lt_.set_product(product_, attribute, &value, sizeof(value)),
              "cublasLtMatmulDescSetAttribute");
  }

  // cuBLASLt rounds f32 operands inside its kernels.
  cublasComputeType_t arithmetic() const {
    if (spec_.operands != DType::f32) return CUBLAS_COMPUTE_32F;
    switch (spec_.precision) {
      case Precision::f32:
        return CUBLAS_COMPUTE_32F;
      case Precision::tf32:
        return CUBLAS_COMPUTE_32F_FAST_TF32;
      case Precision::bf16:
        return CUBLAS_COMPUTE_32F_FAST_16BF;
      case Precision::f16:
        return CUBLAS_COMPUTE_32F_FAST_16F;
    }
    fail_internal("matmul", "precision ", static_cast<int>(spec_.precision));
  }

  void describe_product() {
    lt_.check(lt_.create_product(product_.out(), arithmetic(), CUDA_R_32F),
              "cublasLtMatmulDescCreate");
    set_product(CUBLASLT_MATMUL_DESC_TRANSA, spec_.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set_product(CUBLASLT_MATMUL_DESC_TRANSB, spec_.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  }

  void describe_matrices() {
    const auto [batch, m, n, k] = std::array{spec_.batch, spec_.m, spec_.n, spec_.k};
    const bool ta = spec_.transpose_a, tb = spec_.transpose_b;
    const std::int64_t of_b = spec_.broadcast_b ? 1 : batch;
    describe_matrix(b_, {spec_.operands, of_b, tb ? n : k, tb ? k : n});
    describe_matrix(a_, {spec_.operands, batch, ta ? k : m, ta ? m : k});
    describe_matrix(c_, {spec_.result, batch, m, n});
  }

  void describe_matrix(Described<cublasLtMatrixLayout_t>& matrix, const Matrix& of) {
    lt_.check(lt_.create_matrix(matrix.out(), cublas_type(of.dtype),
                                static_cast<std::uint64_t>(of.columns),
                                static_cast<std::uint64_t>(of.rows), of.columns),
              "cublasLtMatrixLayoutCreate");
    if (spec_.batch == 1) return;
    const auto set = [&](cublasLtMatrixLayoutAttribute_t attribute, const auto& value) {
      lt_.check(lt_.set_matrix(matrix, attribute, &value, sizeof(value)),
                "cublasLtMatrixLayoutSetAttribute");
    };
    const std::int64_t stride = of.batch == 1 ? 0 : of.rows * of.columns;
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(spec_.batch));
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
  }

  cublasLtEpilogue_t epilogue() const {
    if (!fused_) return CUBLASLT_EPILOGUE_DEFAULT;
    if (is_gelu()) return gelu_epilogue();
    if (has_sums())  // its first operand is b
      return spec_.sums == OperandSums::b ? CUBLASLT_EPILOGUE_BGRADA : CUBLASLT_EPILOGUE_BGRADB;
    if (spec_.activation == Activation::none) return CUBLASLT_EPILOGUE_BIAS;
    return spec_.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  }

  cublasLtEpilogue_t gelu_epilogue() const {
    if (spec_.slope) return CUBLASLT_EPILOGUE_DGELU;
    if (!spec_.keeps_before)
      return spec_.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    return spec_.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  }

  // Without those that add parts of a sum to the output one after another as they come, or round
  // the parts to halves.
  void describe_preference(Described<cublasLtMatmulPreference_t>& preference) const {
    lt_.check(lt_.create_preference(preference.out()), "cublasLtMatmulPreferenceCreate");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      lt_.check(lt_.set_preference(preference, attribute, &value, sizeof(value)),
                "cublasLtMatmulPreferenceSetAttribute");
    };
    std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    if (spec_.result == DType::f32) reductions |= CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostScratch);
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
    for (const auto operand :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      set(operand, kOperandAlignment);
    }
  }

  // False when there is none for the epilogue.
  bool choose_algorithm() {
    set_product(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue());
    // What is looked at here is the alignment of the address that run will set.
    constexpr std::uintptr_t kAnyAddress = kOperandAlignment;
    if (fused_ && (spec_.bias || has_sums()))
      set_product(CUBLASLT_MATMUL_DESC_BIAS_POINTER, kAnyAddress);
    if (fused_ && uses_before()) {
      set_product(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, kAnyAddress);
      set_product(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, spec_.n);
      set_product(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, spec_.m * spec_.n);
    }
    Described<cublasLtMatmulPreference_t> preference(lt_.destroy_preference);
    describe_preference(preference);
    std::vector<cublasLtMatmulHeuristicResult_t> all(static_cast<std::size_t>(spec_.algorithm) + 1);
    int count = 0;
    const cublasStatus_t status = lt_.heuristic(handle_, product_, b_, a_, c_, c_, preference,
                                                spec_.algorithm + 1, all.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || count <= spec_.algorithm) return false;
    lt_.check(status, "cublasLtMatmulAlgoGetHeuristic");
    const cublasLtMatmulHeuristicResult_t& found = all.back();
    lt_.check(found.state, "cublasLtMatmulAlgoGetHeuristic");
    algorithm_ = found.algo;
    workspace_ = found.workspaceSize;
    if (spec_.addend) out_of_place_ = adds_out_of_place();
    return true;
  }

  // Whether the algorithm takes an addend that lies elsewhere than the result.
  bool adds_out_of_place() const {
    std::int32_t does = 0;
    std::size_t written = 0;
    lt_.check(lt_.capability(&algorithm_, CUBLASLT_ALGO_CAP_OUT_OF_PLACE_RESULT_SUPPORT, &does,
                             sizeof does, &written),
              "cublasLtMatmulAlgoCapGetAttribute");
    return does != 0;
  }

  // Where the product finds what it adds.
  const void* start_sum(Stream& s, const Tensor& addend, const Tensor& c) const {
    check_alignment(addend);
    if (out_of_place_ || addend.data == c.data) return addend.data;
    Tensor from = addend;
    from.shape = c.shape;
    peal::kernels(device_).copy(s, from, c);
    return c.data;
  }

  // cuBLASLt's workspace first, then the rounded bias.
  void arrange_scratch() {
    bias_at_ = scratch_bytes_ = rounded_up(workspace_);
    if (round_bias_)
      scratch_bytes_ += rounded_up(static_cast<std::size_t>(spec_.n) * size_of(spec_.result));
  }

  // cuBLASLt takes a bias of the result's type only: of a half result it is rounded first, like the
  // weight.
  void set_bias(Stream& s, const Tensor& bias, std::byte* own) {
    Tensor given = bias;
    if (round_bias_) {
      given.data = own + bias_at_;
      given.dtype = spec_.result;
      round_bias_->run(s, bias, given, {});
    } else {
      check_alignment(bias);
    }
    set_product(CUBLASLT_MATMUL_DESC_BIAS_POINTER, given.data);
  }

  // cuBLASLt writes them where it would read a bias.
  void set_sums(const Tensor& sums) {
    check_alignment(sums);
    set_product(CUBLASLT_MATMUL_DESC_BIAS_POINTER, sums.data);
  }

  void set_before(const Tensor& before) {
    check_alignment(before);
    set_product(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, before.data);
  }

  static void check_alignment(const Tensor& x) {
    if (reinterpret_cast<std::uintptr_t>(x.data) % kOperandAlignment != 0)
      fail_internal("matmul", "a tensor is not aligned to ", kOperandAlignment, " bytes");
  }

  Device device_;
  MatmulSpec spec_;
  const CublasLt& lt_;
  cublasLtHandle_t handle_;
  Described<cublasLtMatmulDesc_t> product_{lt_.destroy_product};
  Described<cublasLtMatrixLayout_t> a_{lt_.destroy_matrix}, b_{lt_.destroy_matrix},
      c_{lt_.destroy_matrix};
  bool fused_ = false, out_of_place_ = true;
  std::unique_ptr<Reorder> round_bias_;
  cublasLtMatmulAlgo_t algorithm_{};
  std::size_t workspace_ = 0, bias_at_ = 0, scratch_bytes_ = 0;
};

// By way of an f32 result in scratch memory, which is rounded once, with the bias in it: where
// products and biases all but cancel, what rounding the product alone loses is as large as the sum.
class MatmulRoundedLast final : public Matmul {
 public:
  MatmulRoundedLast(const Device& device, const MatmulSpec& spec)
      : shape_{spec.batch, spec.m, spec.n}, product_(device, in_f32(spec)) {
    if (spec.addend)
      widen_ = peal::kernels(device).make_reorder(shape_, {nullptr, spec.result}, {});
    round_ = peal::kernels(device).make_reorder(shape_, {}, {nullptr, spec.result});
  }

  std::size_t scratch_bytes() const override {
    return own_bytes() + kScratchAlignment + product_.scratch_bytes();
  }

  void run(Stream& s, const Operands& of, Tensor scratch) override {
    std::byte* const own = aligned_start(scratch);
    const Tensor sum{.data = own, .shape = shape_, .device = scratch.device};
    Tensor rest = scratch, to = of.c;
    rest.data = own + own_bytes();
    to.shape = shape_;
    if (widen_) {
      Tensor from = of.addend;
      from.shape = shape_;
      widen_->run(s, from, sum, {});
    }
    Operands exact = of;  // in place
    exact.c = sum;
    exact.addend = widen_ ? sum : Tensor{};
    product_.run(s, exact, rest);
    round_->run(s, sum, to, {});
  }

 private:
  static MatmulSpec in_f32(MatmulSpec spec) {
    spec.result = DType::f32;
    return spec;
  }
  std::size_t own_bytes() const {
    return rounded_up(static_cast<std::size_t>(shape_.numel()) * sizeof(float));
  }

  Shape shape_;
  LtMatmul product_;
  std::unique_ptr<Reorder> widen_, round_;
};

// cuBLASLt sums halves in the product's kernel, too. Which is quicker only a measurement tells, so
// ways with a pass of its own for the sums, of which the first is one, and ways without take turns.
std::unique_ptr<Matmul> make_with_sums(Kernels& kernels, const Device& device, MatmulSpec spec) {
  const bool has_ways = spec.operands != DType::f32 && spec.result == DType::f32 && !spec.bias &&
                        spec.activation == Activation::none && !is_empty(spec);
  if (!has_ways) return make_separate_sums(kernels, spec);
  const bool one_kernel = spec.algorithm % 2 == 1;
  spec.algorithm /= 2;
  if (!one_kernel) return make_separate_sums(kernels, spec);
  return std::make_unique<LtMatmul>(device, spec);
}

}  // namespace

std::unique_ptr<Matmul> CudaKernels::make_matmul(const MatmulSpec& spec) {
  if (spec.sums != OperandSums::none) return make_with_sums(*this, device_, spec);
  if (is_empty(spec)) {
    return spec.activation == Activation::gelu_tanh ? make_separate_activation(*this, spec)
                                                    : make_empty_matmul(*this, spec);
  }
  auto product = std::make_unique<LtMatmul>(device_, flattened(spec));
  if (!product->does_all()) return make_separate_activation(*this, spec);
  if (!product->rounds_before_bias()) return product;
  return std::make_unique<MatmulRoundedLast>(device_, flattened(spec));
}

std::string CudaKernels::algorithm_library() const {
  const std::size_t version = cublas_lt(device_).version();  // 130100 is 13.1.0
  const std::string cudnn = cudnn_version(device_);
  return cat(name_of(device_), ", cuBLASLt ", version / 10000, ".", version / 100 % 100, ".",
             version % 100, cudnn.empty() ? "" : ", cuDNN ", cudnn);
}

}  // namespace peal::cuda
