#include "core/kernels/cpu/onednn.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "core/device/buffer.h"
#include "core/kernels/kernels.h"

std::string peal::onednn_version() {
  const dnnl::version_t* v = dnnl::version();
  return cat(v->major, ".", v->minor, ".", v->patch, " (", v->hash, ")");
}

std::string peal::onednn_instructions() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:  // one that a later oneDNN has
      return cat("isa ", static_cast<int>(dnnl::get_effective_cpu_isa()));
  }
}

namespace peal::cpu {
namespace {

using dnnl::memory;

memory::dims row_major_strides(const Shape& shape) {
  memory::dims strides(static_cast<std::size_t>(shape.rank()), 1);
  for (std::size_t i = strides.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * shape[static_cast<int>(i)];
  }
  return strides;
}

}  // namespace

const dnnl::engine& onednn_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

namespace {

// Each set of instructions has the bits of those that it includes.
bool onednn_has(dnnl::cpu_isa wanted) {
  const auto has = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  return (has & static_cast<unsigned>(wanted)) == static_cast<unsigned>(wanted);
}

}  // namespace

bool onednn_has_bf16() {
  return onednn_has(dnnl::cpu_isa::avx512_core);
}

bool onednn_has_winograd() {
  return onednn_has(dnnl::cpu_isa::avx512_core);
}

bool has_avx2() {
  return onednn_has(dnnl::cpu_isa::avx2) && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma");
}

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const Matrix& a,
              const Matrix& b, float beta, const Matrix& c) {
  const auto status =
      dnnl::sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, alpha, a.data,
                  a.stride, b.data, b.stride, beta, c.data, c.stride);
  if (status != dnnl::status::success) fail_internal("matmul", "oneDNN's sgemm did not run");
}

dnnl::primitive_attr onednn_attributes(bool relu) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (relu) {
    dnnl::post_ops operations;
    operations.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
    attributes.set_post_ops(operations);
  }
  return attributes;
}

DataType data_type(DType dtype) {
  if (dtype == DType::f32) return DataType::f32;
  if (dtype == DType::bf16) return DataType::bf16;
  fail_internal("oneDNN", "no kernels of ours for ", name_of(dtype));
}

MemoryDesc row_major(const Shape& shape, DataType type) {
  return {shape.vector(), type, row_major_strides(shape)};
}

MemoryDesc any_layout(const Shape& shape, DataType type) {
  return {shape.vector(), type, memory::format_tag::any};
}

MemoryDesc describe(const Shape& shape, const Form& form) {
  if (form.layout != nullptr) return static_cast<const OneDnnLayout*>(form.layout)->desc;
  return row_major(shape, data_type(form.dtype));
}

namespace {

std::int64_t channel_block_of(const Shape& shape, const MemoryDesc& desc) {
  using Tag = memory::format_tag;
  if (shape.rank() != 4) return 0;
  const auto is = [&](Tag tag) {
    return desc == MemoryDesc(shape.vector(), desc.data_type(), tag);
  };
  if (is(Tag::nhwc)) return shape[1];
  if (is(Tag::nChw16c)) return 16;
  return is(Tag::nChw8c) ? 8 : 0;
}

}  // namespace

MemoryDesc with_type(const Shape& shape, const MemoryDesc& desc, DataType type) {
  using Tag = memory::format_tag;
  if (desc.data_type() == type) return desc;
  if (channel_block_of(shape, desc) == 0) return row_major(shape, type);
  for (const Tag tag : {Tag::nhwc, Tag::nChw16c})
    if (desc == MemoryDesc(shape.vector(), desc.data_type(), tag))
      return {shape.vector(), type, tag};
  return {shape.vector(), type, Tag::nChw8c};
}

const Layout* intern_layout(const Shape& shape, const MemoryDesc& desc) {
  static std::mutex mutex;
  static std::vector<std::unique_ptr<const OneDnnLayout>> layouts;
  if (desc == row_major(shape, desc.data_type())) return nullptr;
  const std::lock_guard lock(mutex);
  for (const auto& layout : layouts) {
    if (layout->desc == desc) return layout.get();
  }
  return layouts.emplace_back(std::make_unique<OneDnnLayout>(desc, channel_block_of(shape, desc)))
      .get();
}

OneThread::OneThread() : before_(omp_get_max_threads()) {
  if (before_ != 1) omp_set_num_threads(1);
}

OneThread::~OneThread() {
  if (before_ != 1) omp_set_num_threads(before_);
}

Program::Program(const char* name) : name_(name), stream_(onednn_engine()) {}

Program::Slot Program::make_slot(const MemoryDesc& desc) {
  memory_.push_back(memory(desc, onednn_engine(), DNNL_MEMORY_NONE));
  return memory_.size() - 1;
}

Program::Slot Program::bound(const MemoryDesc& desc) {
  return bound_.emplace_back(make_slot(desc));
}

Program::Slot Program::temporary(const MemoryDesc& desc) {
  const Slot slot = make_slot(desc);
  temporaries_.push_back({slot, temporary_bytes_});
  temporary_bytes_ += align_up(desc.get_size());
  return slot;
}

Program::Slot Program::staged(Slot slot, const MemoryDesc& desc) {
  return memory_[slot].get_desc() == desc ? slot : temporary(desc);
}

Program::Slot Program::converted(Slot slot, const MemoryDesc& desc) {
  const Slot result = staged(slot, desc);
  convert(slot, result);
  return result;
}

void Program::convert(Slot from, Slot to) {
  if (from == to) return;
  const dnnl::reorder::primitive_desc reorder(memory_[from], memory_[to], onednn_attributes());
  add(dnnl::reorder(reorder), reorder.scratchpad_desc(),
      {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

void Program::add(const dnnl::primitive& primitive, const MemoryDesc& scratchpad,
                  std::span<const std::pair<int, Slot>> arguments) {
  Step step{primitive, {}};
  for (const auto& [argument, slot] : arguments) {
    step.arguments.push_back({argument, memory_[slot].get()});
  }
  if (const std::size_t bytes = scratchpad.get_size(); bytes > 0) {
    const Slot slot = scratchpads_.emplace_back(make_slot(scratchpad));
    step.arguments.push_back({DNNL_ARG_SCRATCHPAD, memory_[slot].get()});
    scratchpad_bytes_ = std::max(scratchpad_bytes_, align_up(bytes));
  }
  steps_.push_back(std::move(step));
}

void Program::run(std::initializer_list<const Tensor*> bound, const Tensor& scratch) {
  with_onednn(name_, [&] {
    auto* const base = scratch.as<std::byte>();
    auto slot = bound_.begin();
    for (const Tensor* tensor : bound) memory_[*slot++].set_data_handle(tensor->data);
    for (const Piece& piece : temporaries_) {
      memory_[piece.slot].set_data_handle(base + piece.offset);
    }
    for (const Slot pad : scratchpads_) memory_[pad].set_data_handle(base + temporary_bytes_);
    for (const Step& step : steps_) {
      dnnl::error::wrap_c_api(
          dnnl_primitive_execute(step.primitive.get(), stream_.get(),
                                 static_cast<int>(step.arguments.size()), step.arguments.data()),
          "a primitive did not run");
    }
  });
}

}  // namespace peal::cpu
