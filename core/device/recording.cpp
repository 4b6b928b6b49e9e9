#include "core/device/recording.h"

#include <utility>

#include "core/device/cuda/cuda_device.h"

namespace peal {

Recording::Recording(Stream& s, std::string name, std::function<void(Stream&)> work)
    : name_(std::move(name)) {
  if (s.device().kind == Device::Kind::cpu) {
    work_ = std::move(work);
    return;
  }
  s.workspace();  // which a capture cannot make
  cuda::begin_capture(s.handle(), s.device(), name_);
  try {
    work(s);
  } catch (...) {
    cuda::abandon_capture(s.handle(), s.device());
    throw;
  }
  graph_ = cuda::end_capture(s.handle(), s.device(), name_);
}

Recording::~Recording() {
  if (graph_ != nullptr) cuda::free_graph(graph_);
}

Recording::Recording(Recording&& other) noexcept {
  *this = std::move(other);
}

Recording& Recording::operator=(Recording&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(work_, other.work_);
  std::swap(graph_, other.graph_);
  return *this;
}

void Recording::replay(Stream& s) const {
  if (graph_ != nullptr) {
    cuda::launch_graph(graph_, s.handle(), s.device(), name_);
  } else if (work_) {
    work_(s);
  }
}

}  // namespace peal
