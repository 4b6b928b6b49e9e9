#include <png.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/data/gzip.h"
#include "core/data/picture.h"

namespace peal {
namespace {

// What libpng's callbacks see. An error of libpng leaves through longjmp: no object with a
// destructor may live in a function that it passes.
struct Input {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::size_t at = 0;
  char message[160] = {};
};

void keep_error(png_structp png, png_const_charp message) {
  auto* input = static_cast<Input*>(png_get_error_ptr(png));
  std::snprintf(input->message, sizeof input->message, "%s", message);
  png_longjmp(png, 1);
}

void ignore_warning(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep out, png_size_t bytes) {
  auto* input = static_cast<Input*>(png_get_io_ptr(png));
  if (bytes > input->bytes - input->at) png_error(png, "the file ends early");
  std::memcpy(out, input->data + input->at, bytes);
  input->at += bytes;
}

class PngReader {
 public:
  explicit PngReader(std::span<const std::byte> file) : input_{file.data(), file.size()} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input_, keep_error, ignore_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  bool made() const { return info_ != nullptr; }
  std::size_t offset() const { return input_.at; }
  const char* message() const { return input_.message; }

  // False: message() says why.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_read_fn(png_, &input_, take);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // ours are stricter, and say so
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, 0);
    png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_WARN_DISCARD);
    png_read_info(png_, info_);
    return true;
  }

  bool start_rows() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_expand(png_);  // palettes to colours, few bits to 8
    png_set_scale_16(png_);
    png_set_strip_alpha(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  // All rows and what follows them.
  bool read_rows(std::uint8_t* out) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    const std::size_t row = png_get_rowbytes(png_, info_);
    for (int pass = 0; pass < passes_; ++pass) {
      for (std::size_t y = 0; y < height(); ++y) png_read_row(png_, out + y * row, nullptr);
    }
    png_read_end(png_, nullptr);
    return true;
  }

  std::uint64_t height() const { return png_get_image_height(png_, info_); }
  std::uint64_t width() const { return png_get_image_width(png_, info_); }
  int channels() const { return png_get_channels(png_, info_); }
  // Of the picture as it was compressed, at least.
  std::uint64_t packed_bytes() const {
    return (width() * png_get_bit_depth(png_, info_) * png_get_channels(png_, info_) + 7) / 8 *
           height();
  }

 private:
  Input input_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  int passes_ = 1;
};

}  // namespace

void decode_png(std::span<const std::byte> file, const std::string& where, Picture& picture) {
  PngReader reader(file);
  if (!reader.made()) fail_internal(where, "libpng cannot start");
  const auto fail = [&] {
    fail_input(where, "offset ", reader.offset(), ": corrupt PNG (", reader.message(), ")");
  };
  if (!reader.read_header()) fail();
  size_picture(picture, reader.height(), reader.width(), 0, where);
  if (reader.packed_bytes() > file.size() * kMostInflation) {
    fail_input(where, "announces ", reader.height(), " x ", reader.width(), " pixels, more than ",
               file.size(), " bytes can hold");
  }
  if (!reader.start_rows()) fail();
  size_picture(picture, reader.height(), reader.width(), reader.channels(), where);
  if (!reader.read_rows(picture.pixels.data())) fail();
}

}  // namespace peal
