// Pictures of any bytes: pixels as many as the sizes say, from which a record of another size is
// made, or Error(input). Checksums of a PNG's chunks are made good, so that changes reach what lies
// behind them.
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "core/base/error.h"
#include "core/data/picture.h"

namespace {

std::uint32_t big_endian(const std::uint8_t* p) {
  return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
}

void mend_chunks(std::vector<std::uint8_t>& png) {
  constexpr std::size_t kMagic = 8, kAround = 12;
  for (std::size_t at = kMagic; at + kAround <= png.size();) {
    const std::uint32_t bytes = big_endian(png.data() + at);
    if (bytes > png.size() - at - kAround) return;
    const auto crc = static_cast<std::uint32_t>(crc32(0, png.data() + at + 4, bytes + 4));
    for (int i = 0; i < 4; ++i) {
      png[at + 8 + bytes + static_cast<std::size_t>(i)] =
          static_cast<std::uint8_t>(crc >> (24 - 8 * i));
    }
    at += kAround + bytes;
  }
}

void decode(const std::vector<std::uint8_t>& file) {
  peal::Picture picture;
  try {
    peal::decode_picture(std::as_bytes(std::span(file)), "fuzz", picture);
    const std::int64_t pixels = picture.height * picture.width;
    if (pixels < 1 || pixels > peal::kMostPixels) std::abort();
    if (picture.channels != 1 && picture.channels != 3) std::abort();
    if (picture.pixels.size() != static_cast<std::size_t>(pixels * picture.channels)) std::abort();
    peal::PictureWriter writer({.height = 5, .width = 3, .fit = peal::PictureFit::crop}, picture,
                               "fuzz");
    std::vector<std::uint8_t> record(static_cast<std::size_t>(writer.shape().numel()));
    writer.write(picture, "fuzz", record.data());
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> file(data, data + size);
  decode(file);
  mend_chunks(file);
  decode(file);
  return 0;
}
