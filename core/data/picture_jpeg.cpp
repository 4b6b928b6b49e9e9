#include <cstddef>
#include <cstdio>
// jpeglib.h needs size_t and FILE before it.
#include <jpeglib.h>
// and jerror.h needs jpeglib.h
#include <jerror.h>

#include <csetjmp>

#include "core/base/error.h"
#include "core/data/picture.h"

namespace peal {
namespace {

// Scans of a progressive file are each decoded over the whole picture: a small file of very many
// takes hours. Encoders write about ten.
constexpr int kMostScans = 100;

// An error of libjpeg leaves through longjmp: no object with a destructor may live in a function
// that it passes.
struct Errors {
  jpeg_error_mgr manager;  // first: libjpeg hands its address out
  std::jmp_buf leave;
  char message[JMSG_LENGTH_MAX] = {};
};

void keep_error(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<Errors*>(jpeg->err);
  errors->manager.format_message(jpeg, errors->message);
  std::longjmp(errors->leave, 1);
}

// libjpeg only warns where data are missing or corrupt, and makes something up.
void keep_warning(j_common_ptr jpeg, int level) {
  if (level >= 0) return;
  const int code = jpeg->err->msg_code;
  const bool harmless =
      code == JWRN_EXTRANEOUS_DATA || code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM;
  if (!harmless) keep_error(jpeg);
}

void check_scans(j_common_ptr jpeg) {
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= kMostScans) return;
  auto* errors = reinterpret_cast<Errors*>(jpeg->err);
  std::snprintf(errors->message, sizeof errors->message, "more than %d scans", kMostScans);
  std::longjmp(errors->leave, 1);
}

class JpegReader {
 public:
  explicit JpegReader(std::span<const std::byte> file) {
    jpeg_.err = jpeg_std_error(&errors_.manager);
    errors_.manager.error_exit = keep_error;
    errors_.manager.emit_message = keep_warning;
    progress_.progress_monitor = check_scans;
    made_ = create(file);
  }
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  bool made() const { return made_; }
  const char* message() const { return errors_.message; }

  // False: message() says why.
  bool read_header() {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }

  bool start_rows() {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_.out_color_space = channels() == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&jpeg_);
    return true;
  }

  bool read_rows(std::uint8_t* out) {
    if (setjmp(errors_.leave) != 0) return false;
    const std::size_t row = std::size_t{jpeg_.output_width} * jpeg_.output_components;
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW line = out + jpeg_.output_scanline * row;
      jpeg_read_scanlines(&jpeg_, &line, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  std::uint64_t height() const { return jpeg_.image_height; }
  std::uint64_t width() const { return jpeg_.image_width; }
  int channels() const { return jpeg_.jpeg_color_space == JCS_GRAYSCALE ? 1 : 3; }
  int components() const { return jpeg_.num_components; }
  bool known_colours() const {
    return jpeg_.jpeg_color_space == JCS_GRAYSCALE || jpeg_.jpeg_color_space == JCS_RGB ||
           jpeg_.jpeg_color_space == JCS_YCbCr;
  }

 private:
  bool create(std::span<const std::byte> file) {
    if (setjmp(errors_.leave) != 0) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_.progress = &progress_;
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    return true;
  }

  Errors errors_{};
  jpeg_progress_mgr progress_{};
  jpeg_decompress_struct jpeg_{};
  bool made_ = false;
};

}  // namespace

void decode_jpeg(std::span<const std::byte> file, const std::string& where, Picture& picture) {
  JpegReader reader(file);
  if (!reader.made()) fail_internal(where, "libjpeg cannot start: ", reader.message());
  const auto fail = [&] { fail_input(where, "corrupt JPEG (", reader.message(), ")"); };
  if (!reader.read_header()) fail();
  if (!reader.known_colours()) {
    fail_input(where, "is a JPEG of ", reader.components(),
               " components (CMYK or unknown); allowed are grey, YCbCr and RGB");
  }
  size_picture(picture, reader.height(), reader.width(), reader.channels(), where);
  if (!reader.start_rows()) fail();
  if (!reader.read_rows(picture.pixels.data())) fail();
}

}  // namespace peal
