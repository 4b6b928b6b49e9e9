#include "core/data/picture.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/data/resize.h"

namespace peal {
namespace {

bool begins_with(std::span<const std::byte> file, std::span<const unsigned char> magic) {
  return file.size() >= magic.size() && std::memcmp(file.data(), magic.data(), magic.size()) == 0;
}

const char* kind(int channels) {
  return channels == 1 ? "grey" : "in colour";
}

}  // namespace

void size_picture(Picture& picture, std::uint64_t height, std::uint64_t width, int channels,
                  const std::string& where) {
  constexpr auto kMost = static_cast<std::uint64_t>(kMostPixels);
  if (height < 1 || width < 1 || height > kMost || width > kMost || height * width > kMost) {
    fail_input(where, "announces ", height, " x ", width, " pixels; allowed are 1 to ", kMost);
  }
  picture.height = static_cast<std::int64_t>(height);
  picture.width = static_cast<std::int64_t>(width);
  picture.channels = channels;
  picture.pixels.resize(height * width * static_cast<std::size_t>(channels));
}

void decode_picture(std::span<const std::byte> file, const std::string& where, Picture& picture) {
  constexpr unsigned char kPng[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  constexpr unsigned char kJpeg[] = {0xff, 0xd8, 0xff};
  if (file.size() > kLargestPictureFile) {
    fail_input(where, "holds ", file.size(), " bytes; allowed are ", kLargestPictureFile,
               " for a picture");
  }
  if (begins_with(file, kPng)) return decode_png(file, where, picture);
  if (begins_with(file, kJpeg)) return decode_jpeg(file, where, picture);
  fail_input(where, file.empty() ? "is empty" : "begins neither as a PNG nor as a JPEG file",
             "; a picture was expected");
}

PictureWriter::PictureWriter(const PictureOptions& options, const Picture& first,
                             const std::string& where)
    : options_(options) {
  if (options_.channels == 0) options_.channels = first.channels;
  if (options_.height == 0) options_.height = first.height;
  if (options_.width == 0) options_.width = first.width;
  if (options_.height > kMostPixels / options_.width) {
    fail_input(where, "a record of ", options_.height, " x ", options_.width,
               " pixels; allowed are ", kMostPixels, " in all");
  }
  if (options_.channels > 1) shape_.push_back(options_.channels);
  shape_.push_back(options_.height);
  shape_.push_back(options_.width);
  convert_ = options.channels != 0;
}

void PictureWriter::write(const Picture& picture, const std::string& where, void* out) {
  if (picture.channels != options_.channels && !convert_) {
    fail_input(where, "is ", kind(picture.channels), "; the first picture is ",
               kind(options_.channels), ". Set channels (1 or 3) to convert them");
  }
  const std::uint8_t* pixels = picture.pixels.data();
  if (picture.height != options_.height || picture.width != options_.width) {
    pixels = resize(picture, where);
  }
  store(pixels, picture.channels, static_cast<std::uint8_t*>(out));
}

const std::uint8_t* PictureWriter::resize(const Picture& picture, const std::string& where) {
  if (options_.fit == PictureFit::exact) {
    fail_input(where, "has ", picture.height, " x ", picture.width, " pixels; records have ",
               options_.height, " x ", options_.width,
               ". Set fit to RESIZE or CROP to make them alike");
  }
  const Window window =
      options_.fit == PictureFit::crop
          ? centre_window(picture.height, picture.width, options_.height, options_.width)
          : Window{0, 0, picture.height, picture.width};
  resized_.resize(static_cast<std::size_t>(options_.height * options_.width * picture.channels));
  resize_picture(picture.pixels.data(), picture.width, window, picture.channels, resized_.data(),
                 options_.height, options_.width);
  return resized_.data();
}

// (H, W, C) -> (C, H, W), channels converted.
void PictureWriter::store(const std::uint8_t* pixels, int channels, std::uint8_t* out) const {
  const auto count = static_cast<std::size_t>(options_.height * options_.width);
  if (channels == 1) {
    for (int c = 0; c < options_.channels; ++c) out = std::copy_n(pixels, count, out);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* rgb = pixels + 3 * i;
    if (options_.channels == 3) {
      for (std::size_t c = 0; c < 3; ++c) out[c * count + i] = rgb[c];
    } else {
      out[i] = static_cast<std::uint8_t>((299 * rgb[0] + 587 * rgb[1] + 114 * rgb[2] + 500) / 1000);
    }
  }
}

}  // namespace peal
