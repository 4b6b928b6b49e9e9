// Pictures of another size, exact in whole numbers: the same bytes on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace peal {

struct Window {  // of a picture, in pixels
  std::int64_t y = 0, x = 0, height = 0, width = 0;
};

// The largest window about the centre with the proportions height : width, sides rounded down.
Window centre_window(std::int64_t from_height, std::int64_t from_width, std::int64_t height,
                     std::int64_t width);

// Each axis apart, n pixels to m. m < n: output i is the mean of the stretch
// [i n/m, (i + 1) n/m) of the input, pixels counted by the part that lies in it. m >= n: linear
// between the two pixels next to (i + 1/2) n/m - 1/2, beyond the edge the edge's own. The weighted
// sum over both axes is rounded once, halves up.
// from: (from_height, from_width, channels); out: (height, width, channels).
void resize_picture(const std::uint8_t* from, std::int64_t from_width, const Window& window,
                    int channels, std::uint8_t* out, std::int64_t height, std::int64_t width);

}  // namespace peal
