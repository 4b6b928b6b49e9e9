#include "core/graph/memory_planner.h"

#include <algorithm>
#include <numeric>

#include "core/device/buffer.h"

namespace peal {
namespace {

bool overlap_in_time(const MemoryPiece& a, const MemoryPiece& b) {
  return a.life.meets(b.life) || a.life.meets(b.again) || a.again.meets(b.life) ||
         a.again.meets(b.again);
}

// The lowest offset at which `piece` fits between its neighbours, which are sorted by offset.
std::size_t lowest_gap(const MemoryPiece& piece, const std::vector<const MemoryPiece*>& placed) {
  std::size_t offset = 0;
  for (const MemoryPiece* other : placed) {
    if (!overlap_in_time(piece, *other)) continue;
    if (offset + align_up(piece.bytes) <= other->offset) break;
    offset = std::max(offset, other->offset + align_up(other->bytes));
  }
  return offset;
}

}  // namespace

std::size_t place(std::vector<MemoryPiece>& pieces) {
  std::vector<std::size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return pieces[a].bytes > pieces[b].bytes; });
  std::vector<const MemoryPiece*> placed;
  std::size_t total = 0;
  for (const std::size_t index : order) {
    MemoryPiece& piece = pieces[index];
    piece.offset = lowest_gap(piece, placed);
    total = std::max(total, piece.offset + align_up(piece.bytes));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &piece,
                                   [](const MemoryPiece* a, const MemoryPiece* b) {
                                     return a->offset < b->offset;
                                   }),
                  &piece);
  }
  return total;
}

}  // namespace peal
