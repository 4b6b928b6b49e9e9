#include "comm/arguments.h"

#include <functional>

#include "core/base/error.h"

namespace peal {

std::string CallPlace::text() const {
  return cat(call, " \"", name, "\"");
}

void require_memory(const CallPlace& place, const Tensor& t, std::string_view what) {
  if (t.layout != nullptr) fail_input(place.text(), what, " must be row-major");
  if (t.numel() > 0 && t.data == nullptr) fail_input(place.text(), what, " has no memory");
}

void require_same_dtype(const CallPlace& place, const Tensor& x, const Tensor& y) {
  require_memory(place, x, "x");
  require_memory(place, y, "y");
  if (x.dtype != y.dtype) {
    fail_input(place.text(), "x is ", name_of(x.dtype), " but y is ", name_of(y.dtype));
  }
}

void require_pair(const CallPlace& place, const Tensor& x, std::int64_t times_x, const Tensor& y,
                  std::int64_t times_y) {
  require_same_dtype(place, x, y);
  if (x.numel() * times_x != y.numel() * times_y) {
    fail_input(place.text(), "x has ", x.numel(), " elements and y ", y.numel(), "; ",
               x.numel() * times_x, " and ", y.numel() * times_y, " must be equal");
  }
}

void require_elements(const CallPlace& place, const Tensor& t, std::string_view what,
                      std::int64_t elements) {
  if (t.numel() == elements) return;
  fail_input(place.text(), what, " has ", t.numel(), " elements; the counts ask for ", elements);
}

void require_apart(const CallPlace& place, const Tensor& part, const Tensor& whole,
                   std::int64_t offset) {
  if (part.numel() == 0 || whole.numel() == 0) return;
  const auto *a = part.as<const std::byte>(), *b = whole.as<const std::byte>();
  const std::less_equal<> before;
  if (before(a + part.bytes(), b) || before(b + whole.bytes(), a)) return;
  if (offset < 0) fail_input(place.text(), "x and y overlap; this call cannot work in place");
  if (a == b + static_cast<std::size_t>(offset) * size_of(part.dtype)) return;
  fail_input(place.text(), "x and y overlap; in place, one begins at element ", offset,
             " of the other");
}

void require_operation(const CallPlace& place, DType dtype, ReduceOp op) {
  if (dtype == DType::boolean && op == ReduceOp::mean) {
    fail_input(place.text(), "mean of bool; allowed: sum and max (or), product and min (and)");
  }
}

void require_root(const CallPlace& place, int root, int ranks) {
  if (root >= 0 && root < ranks) return;
  fail_input(place.text(), "root ", root, " is not in 0..", ranks - 1);
}

void require_peer(const CallPlace& place, int peer, int rank, int ranks) {
  if (peer < 0 || peer >= ranks) {
    fail_input(place.text(), "rank ", peer, " is not in 0..", ranks - 1);
  }
  if (peer == rank) fail_input(place.text(), "rank ", rank, " with itself; another is needed");
}

void require_counts(const CallPlace& place, Counts counts, std::string_view what, int ranks) {
  if (counts.size() != static_cast<std::size_t>(ranks)) {
    fail_input(place.text(), counts.size(), " ", what, "; one for each of ", ranks,
               " ranks is needed");
  }
  for (std::size_t r = 0; r < counts.size(); ++r) {
    if (counts[r] < 0) fail_input(place.text(), what, "[", r, "] is ", counts[r], ", below 0");
  }
}

}  // namespace peal
