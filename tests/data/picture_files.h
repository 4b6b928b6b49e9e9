// PNG and JPEG files in memory, made by the libraries that the readers use.
#pragma once

#include <png.h>

#include <csetjmp>
#include <cstdint>
#include <cstdio>
// after cstdio, which it needs
#include <jpeglib.h>

#include <string>
#include <vector>

namespace peal::testing {

struct PngKind {
  int colour = PNG_COLOR_TYPE_GRAY;
  int bits = 8;
  bool interlaced = false;
  std::vector<png_color> palette = {};
  std::vector<png_byte> palette_alpha = {};
};

// `rows`: height x the bytes of a row as PNG stores it.
inline std::string make_png(unsigned width, unsigned height, std::vector<std::uint8_t> rows,
                            const PngKind& kind = {}) {
  std::string out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, png_size_t bytes) {
        static_cast<std::string*>(png_get_io_ptr(p))
            ->append(reinterpret_cast<const char*>(data), bytes);
      },
      nullptr);
  png_set_IHDR(png, info, width, height, kind.bits, kind.colour,
               kind.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!kind.palette.empty()) {
    png_set_PLTE(png, info, kind.palette.data(), static_cast<int>(kind.palette.size()));
  }
  if (!kind.palette_alpha.empty()) {
    png_set_tRNS(png, info, kind.palette_alpha.data(), static_cast<int>(kind.palette_alpha.size()),
                 nullptr);
  }
  png_write_info(png, info);
  const std::size_t row = rows.size() / height;
  std::vector<png_bytep> lines;
  for (unsigned y = 0; y < height; ++y) lines.push_back(rows.data() + y * row);
  png_write_image(png, lines.data());
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  return out;
}

// pixels: (height, width, components)
inline std::string make_jpeg(unsigned width, unsigned height, std::vector<std::uint8_t> pixels,
                             J_COLOR_SPACE space, bool progressive = false, int quality = 95) {
  jpeg_error_mgr errors;
  jpeg_compress_struct jpeg{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* out = nullptr;
  unsigned long bytes = 0;
  jpeg_mem_dest(&jpeg, &out, &bytes);
  jpeg.image_width = width;
  jpeg.image_height = height;
  jpeg.input_components = space == JCS_GRAYSCALE ? 1 : space == JCS_CMYK ? 4 : 3;
  jpeg.in_color_space = space;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  if (progressive) jpeg_simple_progression(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  const std::size_t row = std::size_t{width} * static_cast<std::size_t>(jpeg.input_components);
  while (jpeg.next_scanline < height) {
    JSAMPROW line = pixels.data() + jpeg.next_scanline * row;
    jpeg_write_scanlines(&jpeg, &line, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  std::string file(reinterpret_cast<const char*>(out), bytes);
  std::free(out);
  return file;
}

}  // namespace peal::testing
