// Streams of the emulated GPU: work is done when it is enqueued, or becomes part of a graph that is
// being captured.
#pragma once

#include <functional>
#include <vector>

namespace peal::emulator {

using Graph = std::vector<std::function<void()>>;

struct Stream {
  bool captures = false;
  Graph graph;
};

}  // namespace peal::emulator
