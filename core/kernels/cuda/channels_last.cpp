#include "core/kernels/cuda/channels_last.h"

#include <memory>
#include <mutex>
#include <vector>

namespace peal::cuda {
namespace {

struct ChannelsLast final : Layout {
  ChannelsLast(const Shape& of, DType type)
      : Layout(static_cast<std::size_t>(of.numel()) * size_of(type)), shape(of), dtype(type) {
    channel_block = of[1];
  }
  Shape shape;
  DType dtype;
};

}  // namespace

const Layout* channels_last(const Shape& shape, DType dtype) {
  static std::mutex mutex;
  static auto& layouts = *new std::vector<std::unique_ptr<const ChannelsLast>>;
  if (shape[1] == 1 || shape.numel() == shape[0] * shape[1]) return nullptr;
  const std::lock_guard lock(mutex);
  for (const auto& layout : layouts) {
    if (layout->shape == shape && layout->dtype == dtype) return layout.get();
  }
  layouts.push_back(std::make_unique<const ChannelsLast>(shape, dtype));
  return layouts.back().get();
}

}  // namespace peal::cuda
