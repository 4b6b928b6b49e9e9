// The twin of core/device/cuda/library.cpp: of NVIDIA's libraries it has cuBLASLt alone, as far as
// core/kernels/cuda/matmul.cpp calls it, with the CPU's products. Of each product there are two
// algorithms, of which one takes an addend that lies elsewhere than the result. The workspace is
// written, so that nothing else may lie there.
#include <cublasLt.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/device/cuda/library.h"
#include "core/kernels/kernels.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/stored_values.h"

namespace peal::emulator {
namespace {

constexpr int kAlgorithms = 2;
constexpr std::size_t kWorkspace = 1024;  // bytes

// The library's structures are opaque arrays of words; ours lie in them.
struct Product {
  cublasComputeType_t compute;
  std::int32_t transposes_first, transposes_second;
  cublasLtEpilogue_t epilogue;
  void *bias, *before;
  std::int64_t before_pitch, before_stride;
};
struct Layout {  // a matrix by columns
  cudaDataType_t type;
  std::uint64_t rows, columns;
  std::int64_t pitch;
  std::int32_t batch;
  std::int64_t stride;
};
struct Preference {
  std::uint64_t most_workspace;
};
static_assert(sizeof(Product) <= sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t));
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t));

template <typename T, typename Opaque>
T& in(Opaque* of) {
  return *reinterpret_cast<T*>(of);
}
template <typename T, typename Opaque>
const T& in(const Opaque* of) {
  return *reinterpret_cast<const T*>(of);
}

template <typename T>
cublasStatus_t set(T& field, const void* value, std::size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename Opaque, typename Made>
cublasStatus_t make(Opaque** out, const Made& made) {
  *out = new Opaque{};
  std::memcpy(static_cast<void*>(*out), &made, sizeof made);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename Opaque>
cublasStatus_t destroy(Opaque* made) {
  delete made;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t create(cublasLtHandle_t* handle) {
  static int any;
  *handle = reinterpret_cast<cublasLtHandle_t>(&any);
  return CUBLAS_STATUS_SUCCESS;
}

std::size_t version() {
  return CUBLAS_VER_MAJOR * 10000;
}

const char* status_string(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INVALID_VALUE ? "invalid value" : "refused";
}

cublasStatus_t create_product(cublasLtMatmulDesc_t* out, cublasComputeType_t compute,
                              cudaDataType_t) {
  return make(out, Product{.compute = compute,
                           .transposes_first = CUBLAS_OP_N,
                           .transposes_second = CUBLAS_OP_N,
                           .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                           .bias = nullptr,
                           .before = nullptr,
                           .before_pitch = 0,
                           .before_stride = 0});
}

cublasStatus_t set_product(cublasLtMatmulDesc_t of, cublasLtMatmulDescAttributes_t attribute,
                           const void* value, std::size_t bytes) {
  auto& product = in<Product>(of);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(product.transposes_first, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(product.transposes_second, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(product.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(product.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return set(product.before, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return set(product.before_pitch, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
      return set(product.before_stride, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t create_matrix(cublasLtMatrixLayout_t* out, cudaDataType type, std::uint64_t rows,
                             std::uint64_t columns, std::int64_t pitch) {
  return make(out, Layout{type, rows, columns, pitch, 1, 0});
}

cublasStatus_t set_matrix(cublasLtMatrixLayout_t of, cublasLtMatrixLayoutAttribute_t attribute,
                          const void* value, std::size_t bytes) {
  auto& matrix = in<Layout>(of);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return set(matrix.batch, value, bytes);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)
    return set(matrix.stride, value, bytes);
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t create_preference(cublasLtMatmulPreference_t* out) {
  return make(out, Preference{0});
}

cublasStatus_t set_preference(cublasLtMatmulPreference_t of,
                              cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                              std::size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    return set(in<Preference>(of).most_workspace, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                         cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                         cublasLtMatmulPreference_t preference, int wanted,
                         cublasLtMatmulHeuristicResult_t* found, int* count) {
  *count = std::min(wanted, kAlgorithms);
  for (int i = 0; i < *count; ++i) {
    found[i] = {};
    found[i].algo.data[0] = static_cast<std::uint64_t>(i);
    found[i].workspaceSize =
        std::min<std::uint64_t>(kWorkspace, in<Preference>(preference).most_workspace);
    found[i].state = CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t capability(const cublasLtMatmulAlgo_t* algorithm,
                          cublasLtMatmulAlgoCapAttributes_t attribute, void* value, std::size_t,
                          std::size_t* written) {
  if (attribute != CUBLASLT_ALGO_CAP_OUT_OF_PLACE_RESULT_SUPPORT)
    return CUBLAS_STATUS_INVALID_VALUE;
  const std::int32_t does = algorithm->data[0] % 2 == 0 ? 1 : 0;
  *written = sizeof does;
  std::memcpy(value, &does, sizeof does);
  return CUBLAS_STATUS_SUCCESS;
}

DType dtype_of(cudaDataType_t type) {
  if (type == CUDA_R_16BF) return DType::bf16;
  return type == CUDA_R_16F ? DType::f16 : DType::f32;
}

// The operands in the order of the library's formula: c = first^ second^, all by columns. By rows
// that is second first, whose dimensions are (n, k) and (k, m).
struct Call {
  Product product;
  Layout first, second, c;
  const void *first_data, *second_data, *addend;
  void* to;
  void* workspace;
  std::size_t workspace_bytes;
};

bool has(const Call& call, std::initializer_list<cublasLtEpilogue_t> any) {
  for (const auto epilogue : any) {
    if (call.product.epilogue == epilogue) return true;
  }
  return false;
}

// All matrices of a batch, as f32, one after another.
std::vector<float> read_all(const void* data, const Layout& of) {
  const std::size_t one = of.rows * of.columns;
  std::vector<float> all(one * static_cast<std::size_t>(of.batch));
  for (std::int32_t b = 0; b < of.batch; ++b) {
    for (std::uint64_t column = 0; column < of.columns; ++column) {
      read_stored(data, dtype_of(of.type),
                  b * of.stride + static_cast<std::int64_t>(column) * of.pitch,
                  {all.data() + static_cast<std::size_t>(b) * one + column * of.rows, of.rows});
    }
  }
  return all;
}

// Of the operands in f32, without the epilogue.
std::vector<float> multiply(const Call& call, std::vector<float>& first,
                            std::vector<float>& second) {
  const bool tf = call.product.transposes_first != CUBLAS_OP_N,
             ts = call.product.transposes_second != CUBLAS_OP_N;
  MatmulSpec spec;
  spec.batch = call.c.batch;
  spec.m = static_cast<std::int64_t>(call.c.columns);
  spec.n = static_cast<std::int64_t>(call.c.rows);
  spec.k = static_cast<std::int64_t>(tf ? call.first.rows : call.first.columns);
  spec.transpose_a = ts;
  spec.transpose_b = tf;
  std::vector<float> c(static_cast<std::size_t>(spec.batch * spec.m * spec.n));
  const auto tensor = [&](std::vector<float>& of) {
    return Tensor{.data = reinterpret_cast<std::byte*>(of.data()),
                  .shape = {static_cast<std::int64_t>(of.size())}};
  };
  const auto product = kernels(kCpu).make_matmul(spec);
  std::vector<std::byte> scratch(product->scratch_bytes() + 64);
  Stream cpu;
  product->run(cpu,
               {.a = tensor(second),
                .b = tensor(first),
                .c = tensor(c),
                .bias = {},
                .addend = {},
                .before = {},
                .sums = {}},
               {.data = scratch.data(),
                .shape = {static_cast<std::int64_t>(scratch.size())},
                .dtype = DType::u8});
  return c;
}

double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

double gelu_tanh_slope(double x) {
  const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

// In place on the f32 result.
void apply_epilogue(const Call& call, std::vector<float>& c) {
  const DType type = dtype_of(call.c.type);
  const std::size_t n = call.c.rows;
  std::vector<float> bias(n);
  const bool adds = has(call, {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU_BIAS,
                               CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS});
  if (adds) read_stored(call.product.bias, type, 0, bias);
  for (std::size_t i = 0; adds && i < c.size(); ++i) c[i] += bias[i % n];
  if (has(call, {CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS}))
    write_stored(call.product.before, type, c);
  if (has(call, {CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_RELU_BIAS})) {
    for (float& x : c) x = std::max(x, 0.0f);
  }
  if (has(call, {CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX,
                 CUBLASLT_EPILOGUE_GELU_AUX_BIAS})) {
    for (float& x : c) x = static_cast<float>(gelu_tanh(x));
  }
  if (has(call, {CUBLASLT_EPILOGUE_DGELU})) {
    std::vector<float> before(c.size());
    read_stored(call.product.before, type, 0, before);
    for (std::size_t i = 0; i < c.size(); ++i)
      c[i] = static_cast<float>(c[i] * gelu_tanh_slope(before[i]));
  }
}

// Of an operand over the dimension that the product sums, which are rows or columns of it.
void write_sums(const Call& call, const std::vector<float>& operand, const Layout& of,
                bool over_rows) {
  const std::size_t count = over_rows ? of.columns : of.rows;
  std::vector<double> sums(count);
  for (std::size_t i = 0; i < operand.size(); ++i)
    sums[over_rows ? i / of.rows : i % of.rows] += operand[i];
  const std::vector<float> rounded(sums.begin(), sums.end());
  write_stored(call.product.bias, DType::f32, rounded);
}

void multiply_and_add(const Call& call) {
  if (call.workspace != nullptr) std::memset(call.workspace, 0xff, call.workspace_bytes);
  std::vector<float> first = read_all(call.first_data, call.first),
                     second = read_all(call.second_data, call.second);
  std::vector<float> c = multiply(call, first, second);
  if (call.addend != nullptr) {
    const std::vector<float> addend = read_all(call.addend, call.c);
    for (std::size_t i = 0; i < c.size(); ++i) c[i] += addend[i];
  }
  apply_epilogue(call, c);
  if (has(call, {CUBLASLT_EPILOGUE_BGRADA}))
    write_sums(call, first, call.first, call.product.transposes_first != CUBLAS_OP_N);
  if (has(call, {CUBLASLT_EPILOGUE_BGRADB}))
    write_sums(call, second, call.second, call.product.transposes_second == CUBLAS_OP_N);
  write_stored(call.to, dtype_of(call.c.type), c);
}

cublasStatus_t matmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void*,
                      const void* first, cublasLtMatrixLayout_t first_layout, const void* second,
                      cublasLtMatrixLayout_t second_layout, const void* beta, const void* addend,
                      cublasLtMatrixLayout_t c_layout, void* to, cublasLtMatrixLayout_t,
                      const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                      std::size_t workspace_bytes, cudaStream_t stream) {
  const bool adds = *static_cast<const float*>(beta) != 0;
  if (adds && addend != to && algorithm->data[0] % 2 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  enqueue(stream,
          [call = Call{in<Product>(product), in<Layout>(first_layout), in<Layout>(second_layout),
                       in<Layout>(c_layout), first, second, adds ? addend : nullptr, to, workspace,
                       workspace_bytes}] { multiply_and_add(call); });
  return CUBLAS_STATUS_SUCCESS;
}

// Of the type that the library's header declares under that name.
template <typename Function>
void* as(Function* ours) {
  return reinterpret_cast<void*>(ours);
}
#define PEAL_AS(name, ours) \
  { #name, as < decltype(name)>(ours) }

void* function_of(const std::string& name) {
  static const std::map<std::string, void*> all = {
      PEAL_AS(cublasLtCreate, create),
      PEAL_AS(cublasLtGetVersion, version),
      PEAL_AS(cublasLtGetStatusString, status_string),
      PEAL_AS(cublasLtMatmul, matmul),
      PEAL_AS(cublasLtMatmulAlgoGetHeuristic, heuristic),
      PEAL_AS(cublasLtMatmulAlgoCapGetAttribute, capability),
      PEAL_AS(cublasLtMatmulDescCreate, create_product),
      PEAL_AS(cublasLtMatmulDescDestroy, destroy),
      PEAL_AS(cublasLtMatmulDescSetAttribute, set_product),
      PEAL_AS(cublasLtMatrixLayoutCreate, create_matrix),
      PEAL_AS(cublasLtMatrixLayoutDestroy, destroy),
      PEAL_AS(cublasLtMatrixLayoutSetAttribute, set_matrix),
      PEAL_AS(cublasLtMatmulPreferenceCreate, create_preference),
      PEAL_AS(cublasLtMatmulPreferenceDestroy, destroy),
      PEAL_AS(cublasLtMatmulPreferenceSetAttribute, set_preference),
  };
  const auto found = all.find(name);
  return found == all.end() ? nullptr : found->second;
}

}  // namespace
}  // namespace peal::emulator

namespace peal::cuda {

void* open_library(const Device& device, const std::string& name) {
  if (!name.starts_with("libcublasLt.so."))
    fail_input(to_string(device), "the emulated GPU has no ", name);
  static int any;
  return &any;
}

void* find_function(void*, const std::string& name, const char* function) {
  void* const found = emulator::function_of(function);
  if (found == nullptr) fail_input(name, "the emulated GPU has no ", function);
  return found;
}

}  // namespace peal::cuda
