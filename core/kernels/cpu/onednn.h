// The one header of ours that sees oneDNN's: prepared kernels are Programs of its primitives.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <oneapi/dnnl/dnnl.hpp>
#include <span>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/device/tensor.h"
#include "core/kernels/form.h"
#include "core/kernels/layout.h"

namespace peal::cpu {

using MemoryDesc = dnnl::memory::desc;

struct OneDnnLayout final : Layout {
  OneDnnLayout(const MemoryDesc& description, std::int64_t block)
      : Layout(description.get_size()), desc(description) {
    channel_block = block;
  }
  MemoryDesc desc;
};

const dnnl::engine& onednn_engine();
bool onednn_has_bf16();      // products and convolutions of bf16, if slower than f32 on old CPUs
bool onednn_has_winograd();  // for all three passes
// AVX2 and FMA, unless DNNL_MAX_CPU_ISA says less: our own kernels keep to it as well, so that
// hosts with the same onednn_instructions have the same bits.
bool has_avx2();
dnnl::primitive_attr onednn_attributes(bool relu = false);  // scratchpads are the caller's

using DataType = dnnl::memory::data_type;

DataType data_type(DType dtype);  // f32 or bf16
MemoryDesc row_major(const Shape& shape, DataType type = DataType::f32);
MemoryDesc any_layout(const Shape& shape, DataType type = DataType::f32);  // oneDNN chooses
MemoryDesc describe(const Shape& shape, const Form& form);
// The same order in another type: row-major, or a layout of blocks of channels.
MemoryDesc with_type(const Shape& shape, const MemoryDesc& desc, DataType type);
// The one Layout that equals desc; nullptr when desc is row-major.
const Layout* intern_layout(const Shape& shape, const MemoryDesc& desc);

// oneDNN is built on OpenMP: within this scope it uses the calling thread alone.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

// Runs body on one thread; what oneDNN throws becomes Error(internal, where).
template <typename Body>
auto with_onednn(const char* where, Body&& body) {
  const OneThread one_thread;
  try {
    return body();
  } catch (const dnnl::error& e) {
    fail_internal(where, "oneDNN: ", e.what(), " (status ", static_cast<int>(e.status), ")");
  }
}

// A row-major matrix inside another: rows are `stride` floats apart. transposed: it stands for its
// transpose.
struct Matrix {
  float* data;
  std::int64_t stride;
  bool transposed = false;
};

// c (m, n) = alpha * a (m, k) * b (k, n) + beta * c, by oneDNN's BLAS entry, which packs its
// operands in memory of its own. Called inside with_onednn.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const Matrix& a,
              const Matrix& b, float beta, const Matrix& c);

// A fixed sequence of primitives over slots of memory. Everything is made while it is put
// together; run() only sets pointers. One thread runs a Program at a time.
class Program {
 public:
  using Slot = std::size_t;
  using Arguments = std::initializer_list<std::pair<int, Slot>>;  // DNNL_ARG_* and its slot

  explicit Program(const char* name);

  Slot bound(const MemoryDesc& desc);      // handed to run, in the order of these calls
  Slot temporary(const MemoryDesc& desc);  // a piece of scratch
  // `slot` where it has this layout already; else a temporary and a step that copies into it.
  Slot converted(Slot slot, const MemoryDesc& desc);
  // Before: where a step shall put what belongs in `slot`; after it, call convert(result, slot).
  Slot staged(Slot slot, const MemoryDesc& desc);
  void convert(Slot from, Slot to);  // nothing when they are one slot
  void add(const dnnl::primitive& primitive, const MemoryDesc& scratchpad, Arguments arguments) {
    add(primitive, scratchpad, std::span(arguments.begin(), arguments.size()));
  }
  void add(const dnnl::primitive& primitive, const MemoryDesc& scratchpad,
           std::span<const std::pair<int, Slot>> arguments);

  std::size_t scratch_bytes() const { return temporary_bytes_ + scratchpad_bytes_; }
  void run(std::initializer_list<const Tensor*> bound, const Tensor& scratch);

 private:
  struct Step {
    dnnl::primitive primitive;
    std::vector<dnnl_exec_arg_t> arguments;
  };
  struct Piece {
    Slot slot;
    std::size_t offset;
  };

  Slot make_slot(const MemoryDesc& desc);

  const char* name_;
  dnnl::stream stream_;
  std::vector<dnnl::memory> memory_;
  std::vector<Slot> bound_;
  std::vector<Piece> temporaries_;
  std::vector<Slot> scratchpads_;  // share one piece: steps run one after the other
  std::vector<Step> steps_;
  std::size_t temporary_bytes_ = 0;
  std::size_t scratchpad_bytes_ = 0;
};

}  // namespace peal::cpu
