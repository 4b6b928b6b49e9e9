#include "core/kernels/kernels.h"

#include <memory>
#include <mutex>
#include <vector>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/layout.h"

namespace peal {
namespace {

struct PaddedRows final : Layout {
  PaddedRows(std::int64_t of_rows, std::int64_t pitch, DType type)
      : Layout(static_cast<std::size_t>(of_rows * pitch) * size_of(type)),
        rows(of_rows),
        dtype(type) {
    row_pitch = pitch;
  }
  std::int64_t rows;
  DType dtype;
};

std::int64_t windows(std::int64_t size, std::int64_t padding, std::int64_t extent,
                     std::int64_t stride) {
  return (size + 2 * padding - extent) / stride + 1;
}

}  // namespace

DType stored_type(Precision precision) {
  if (precision == Precision::bf16) return DType::bf16;
  return precision == Precision::f16 ? DType::f16 : DType::f32;
}

std::size_t layout_bytes(const Tensor& x) {
  return x.layout == nullptr ? x.bytes() : x.layout->bytes;
}

const Layout* padded_rows(const Shape& shape, DType dtype, std::int64_t pitch) {
  static std::mutex mutex;
  static auto& layouts = *new std::vector<std::unique_ptr<const PaddedRows>>;
  const std::int64_t columns = shape[-1];
  if (pitch == columns || shape.numel() == 0) return nullptr;
  const std::int64_t rows = shape.numel() / columns;
  const std::lock_guard lock(mutex);
  for (const auto& layout : layouts)
    if (layout->rows == rows && layout->row_pitch == pitch && layout->dtype == dtype)
      return layout.get();
  return layouts.emplace_back(std::make_unique<const PaddedRows>(rows, pitch, dtype)).get();
}

std::int64_t row_pitch(const Tensor& x) {
  return x.layout != nullptr && x.layout->row_pitch > 0 ? x.layout->row_pitch : x.shape[-1];
}

Shape Conv2dSpec::y() const {
  Shape out{x[0], w[0], 0, 0};
  for (int i = 0; i < 2; ++i) {
    out[2 + i] = windows(x[2 + i], padding[i], dilation[i] * (w[2 + i] - 1) + 1, stride[i]);
  }
  return out;
}

Shape Pool2dSpec::y() const {
  Shape out{x[0], x[1], 0, 0};
  for (int i = 0; i < 2; ++i) out[2 + i] = windows(x[2 + i], padding[i], kernel[i], stride[i]);
  return out;
}

std::int64_t RecurrentSpec::gates() const {
  return cell == RecurrentCell::lstm ? 4 : cell == RecurrentCell::gru ? 3 : 1;
}

Shape RecurrentSpec::x() const {
  return batch_first ? Shape{batch, steps, inputs} : Shape{steps, batch, inputs};
}

Shape RecurrentSpec::y() const {
  const std::int64_t width = directions() * hidden;
  return batch_first ? Shape{batch, steps, width} : Shape{steps, batch, width};
}

Shape RecurrentSpec::state() const {
  return {layers * directions(), batch, hidden};
}

std::vector<Shape> RecurrentSpec::weights() const {
  std::vector<Shape> shapes;
  const std::int64_t rows = gates() * hidden;
  for (std::int64_t i = 0; i < layers * directions(); ++i) {
    const std::int64_t width = i < directions() ? inputs : directions() * hidden;
    shapes.insert(shapes.end(), {{rows, width}, {rows, hidden}, {rows}, {rows}});
  }
  return shapes;
}

Kernels& kernels(const Device& device) {
  if (device.kind == Device::Kind::cuda) return cuda::kernels(device);
  static cpu::CpuKernels cpu_kernels;
  return cpu_kernels;
}

}  // namespace peal
