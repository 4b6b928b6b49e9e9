// Places pieces of memory that live at different times on top of each other.
#pragma once

#include <algorithm>
#include <climits>
#include <cstddef>
#include <vector>

namespace peal {

// Calls from the first to the last, both included.
struct Life {
  int first = INT_MAX, last = -1;  // none

  void add(int call) {
    first = std::min(first, call);
    last = std::max(last, call);
  }
  bool meets(const Life& other) const { return first <= other.last && other.first <= last; }
};

struct MemoryPiece {
  std::size_t bytes = 0;
  Life life;
  Life again;              // a second one, of what is made twice; its place is the same
  std::size_t offset = 0;  // result, a multiple of kAlignment
};

// Sets every offset so that pieces whose lives overlap do not; returns the bytes needed in all.
// Greedy by size (Pisarchyk & Lee 2020, "greedy by size for offset calculation"); O(n^2).
std::size_t place(std::vector<MemoryPiece>& pieces);

}  // namespace peal
