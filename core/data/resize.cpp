#include "core/data/resize.h"

#include <algorithm>
#include <vector>

namespace peal {
namespace {

// Which input pixels make one output pixel: `weights` of them from `first` on.
struct Taps {
  std::int64_t first = 0;
  std::vector<std::uint64_t> weights;
};

struct Axis {
  std::vector<Taps> outputs;
  std::uint64_t sum = 1;  // of the weights of any output
};

// In units of 1/m: input j covers [j m, (j + 1) m), output i [i n, (i + 1) n).
Taps mean_taps(std::int64_t n, std::int64_t m, std::int64_t i) {
  Taps taps{i * n / m, {}};
  for (std::int64_t j = taps.first; j * m < (i + 1) * n; ++j) {
    taps.weights.push_back(
        static_cast<std::uint64_t>(std::min((j + 1) * m, (i + 1) * n) - std::max(j * m, i * n)));
  }
  return taps;
}

// In units of 1/(2 m): the place is (2 i + 1) n - m.
Taps linear_taps(std::int64_t n, std::int64_t m, std::int64_t i) {
  const std::int64_t place = std::clamp((2 * i + 1) * n - m, std::int64_t{0}, (n - 1) * 2 * m);
  Taps taps{place / (2 * m), {}};
  const auto second = static_cast<std::uint64_t>(place % (2 * m));
  taps.weights.push_back(static_cast<std::uint64_t>(2 * m) - second);
  if (second > 0) taps.weights.push_back(second);
  return taps;
}

Axis make_axis(std::int64_t n, std::int64_t m) {
  Axis axis;
  axis.sum = static_cast<std::uint64_t>(m < n ? n : 2 * m);
  for (std::int64_t i = 0; i < m; ++i) {
    axis.outputs.push_back(m < n ? mean_taps(n, m, i) : linear_taps(n, m, i));
  }
  return axis;
}

}  // namespace

Window centre_window(std::int64_t from_height, std::int64_t from_width, std::int64_t height,
                     std::int64_t width) {
  Window window{0, 0, from_height, from_width};
  if (from_width * height > from_height * width) {
    window.width = std::max(from_height * width / height, std::int64_t{1});
  } else {
    window.height = std::max(from_width * height / width, std::int64_t{1});
  }
  window.y = (from_height - window.height) / 2;
  window.x = (from_width - window.width) / 2;
  return window;
}

// Sums stay below 2^63: 255, and a weight below 2^27 for either axis.
void resize_picture(const std::uint8_t* from, std::int64_t from_width, const Window& window,
                    int channels, std::uint8_t* out, std::int64_t height, std::int64_t width) {
  const Axis rows = make_axis(window.height, height), columns = make_axis(window.width, width);
  const std::uint64_t whole = rows.sum * columns.sum;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(width * channels));
  for (const Taps& row : rows.outputs) {
    std::fill(sums.begin(), sums.end(), 0);
    for (std::size_t r = 0; r < row.weights.size(); ++r) {
      const std::int64_t y = window.y + row.first + static_cast<std::int64_t>(r);
      const std::uint8_t* line = from + (y * from_width + window.x) * channels;
      std::uint64_t* sum = sums.data();
      for (const Taps& column : columns.outputs) {
        const std::uint8_t* pixel = line + column.first * channels;
        for (const std::uint64_t weight : column.weights) {
          for (int c = 0; c < channels; ++c) sum[c] += row.weights[r] * weight * *pixel++;
        }
        sum += channels;
      }
    }
    for (const std::uint64_t sum : sums) {
      *out++ = static_cast<std::uint8_t>((2 * sum + whole) / (2 * whole));
    }
  }
}

}  // namespace peal
