// PNG and JPEG pictures in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/data/record_source.h"

namespace peal {

// A picture of more pixels, and a file of more bytes, are refused before memory is taken.
inline constexpr std::int64_t kMostPixels = std::int64_t{1} << 26;
inline constexpr std::uint64_t kLargestPictureFile = std::uint64_t{256} << 20;

struct Picture {
  std::int64_t height = 0, width = 0;
  int channels = 0;                  // 1 grey, 3 red green blue
  std::vector<std::uint8_t> pixels;  // (height, width, channels)
};

// Told apart by content. 16 bits become 8 (the nearest of v / 257), palettes their colours; fewer
// bits are spread over 0 to 255; alpha, gamma, colour profiles and EXIF's orientation are left out.
// Throws Error(input) that begins with `where` for what is truncated, corrupt (checksums are
// compared), neither PNG nor JPEG, larger than allowed, or CMYK. Memory of `picture` is used again.
void decode_picture(std::span<const std::byte> file, const std::string& where, Picture& picture);

// Picture -> record. Grey becomes colour as three equal channels, colour grey as
// (299 R + 587 G + 114 B + 500) / 1000.
class PictureWriter {
 public:
  // `first` gives what the options leave out.
  PictureWriter(const PictureOptions& options, const Picture& first, const std::string& where);

  const Shape& shape() const { return shape_; }
  // Throws Error(input) that begins with `where` when the options do not let this picture in.
  void write(const Picture& picture, const std::string& where, void* out);

 private:
  const std::uint8_t* resize(const Picture& picture, const std::string& where);
  void store(const std::uint8_t* pixels, int channels, std::uint8_t* out) const;

  PictureOptions options_;  // complete
  bool convert_ = false;    // channels
  Shape shape_;
  std::vector<std::uint8_t> resized_;
};

// Decoders of one format; decode_picture chooses.
void decode_png(std::span<const std::byte> file, const std::string& where, Picture& picture);
void decode_jpeg(std::span<const std::byte> file, const std::string& where, Picture& picture);
// Throws Error(input) for sizes that are not allowed; else sizes `picture` and its memory.
void size_picture(Picture& picture, std::uint64_t height, std::uint64_t width, int channels,
                  const std::string& where);

}  // namespace peal
