// Places pieces of memory that live at different times on top of each other.
#pragma once

#include <cstddef>
#include <vector>

namespace peal {

struct MemoryPiece {
  std::size_t bytes = 0;
  int first = 0, last = 0;  // calls in which it is live, both ends included
  std::size_t offset = 0;   // result, a multiple of kAlignment
};

// Sets every offset so that pieces whose lives overlap do not; returns the bytes needed in all.
// Greedy by size (Pisarchyk & Lee 2020, "greedy by size for offset calculation"); O(n^2).
std::size_t place(std::vector<MemoryPiece>& pieces);

}  // namespace peal
