#include "core/data/picture.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "core/base/checksum.h"
#include "core/data/resize.h"
#include "tests/data/picture_files.h"
#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using testing::Folder;
using ::testing::HasSubstr;
using testing::input_error;
using testing::make_jpeg;
using testing::make_png;
using testing::PngKind;

Picture decode(const std::string& file) {
  Picture picture;
  decode_picture(std::as_bytes(std::span(file)), "file", picture);
  return picture;
}

// Bytes that no two rows share.
std::vector<std::uint8_t> pattern(std::size_t n) {
  std::vector<std::uint8_t> bytes(n);
  for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 + i / 11);
  return bytes;
}

void expect_picture(const Picture& picture, std::int64_t height, std::int64_t width, int channels,
                    const std::vector<std::uint8_t>& pixels) {
  EXPECT_EQ(picture.height, height);
  EXPECT_EQ(picture.width, width);
  EXPECT_EQ(picture.channels, channels);
  EXPECT_EQ(picture.pixels, pixels);
}

TEST(Png, GreyAndColourOf8Bits) {
  for (const bool interlaced : {false, true}) {
    const auto grey = pattern(7 * 5);
    expect_picture(decode(make_png(7, 5, grey, {.interlaced = interlaced})), 5, 7, 1, grey);
    const auto colour = pattern(7 * 5 * 3);
    const PngKind kind{.colour = PNG_COLOR_TYPE_RGB, .interlaced = interlaced};
    expect_picture(decode(make_png(7, 5, colour, kind)), 5, 7, 3, colour);
  }
}

TEST(Png, SixteenBitsBecomeTheNearestEight) {
  std::vector<std::uint8_t> rows, expected;
  for (int v = 0; v < 65536; v += 64) {
    rows.push_back(static_cast<std::uint8_t>(v >> 8));
    rows.push_back(static_cast<std::uint8_t>(v & 255));
    expected.push_back(static_cast<std::uint8_t>((2 * v + 257) / 514));  // v / 257, rounded
  }
  expect_picture(decode(make_png(64, 16, rows, {.bits = 16})), 16, 64, 1, expected);
}

TEST(Png, FewBitsAreSpreadOverAll) {
  // 0, 1, 2, 3 of two bits; 1 0 1 1 of one.
  expect_picture(decode(make_png(4, 1, {0b00011011}, {.bits = 2})), 1, 4, 1, {0, 85, 170, 255});
  expect_picture(decode(make_png(4, 1, {0b10110000}, {.bits = 1})), 1, 4, 1, {255, 0, 255, 255});
}

TEST(Png, PalettesAndAlpha) {
  PngKind kind{.colour = PNG_COLOR_TYPE_PALETTE, .bits = 2, .palette = {{1, 2, 3}, {40, 50, 60}}};
  expect_picture(decode(make_png(2, 1, {0b01000000}, kind)), 1, 2, 3, {40, 50, 60, 1, 2, 3});
  kind.palette_alpha = {0, 128};
  expect_picture(decode(make_png(2, 1, {0b01000000}, kind)), 1, 2, 3, {40, 50, 60, 1, 2, 3});
  expect_picture(decode(make_png(1, 1, {9, 8, 7, 100}, {.colour = PNG_COLOR_TYPE_RGB_ALPHA})), 1, 1,
                 3, {9, 8, 7});
  expect_picture(decode(make_png(1, 1, {9, 100}, {.colour = PNG_COLOR_TYPE_GRAY_ALPHA})), 1, 1, 1,
                 {9});
}

// A smooth picture comes back from JPEG nearly as it was.
TEST(Jpeg, GreyColourAndProgressive) {
  for (const bool progressive : {false, true}) {
    for (const int channels : {1, 3}) {
      std::vector<std::uint8_t> pixels;
      for (int y = 0; y < 24; ++y) {
        for (int x = 0; x < 40; ++x) {
          for (int c = 0; c < channels; ++c) {
            pixels.push_back(static_cast<std::uint8_t>(20 + 3 * x + 4 * y));
          }
        }
      }
      const Picture picture =
          decode(make_jpeg(40, 24, pixels, channels == 1 ? JCS_GRAYSCALE : JCS_RGB, progressive));
      EXPECT_EQ(picture.height, 24);
      EXPECT_EQ(picture.width, 40);
      ASSERT_EQ(picture.channels, channels);
      ASSERT_EQ(picture.pixels.size(), pixels.size());
      for (std::size_t i = 0; i < pixels.size(); ++i) {
        EXPECT_NEAR(picture.pixels[i], pixels[i], 4) << i;
      }
    }
  }
}

TEST(Jpeg, CmykIsRefused) {
  const std::string file = make_jpeg(8, 8, pattern(8 * 8 * 4), JCS_CMYK);
  EXPECT_THAT(input_error([&] { decode(file); }), HasSubstr("CMYK"));
}

TEST(Pictures, EveryTruncationIsRefused) {
  const std::vector<std::string> files = {
      make_png(16, 16, pattern(256)),
      make_png(16, 16, pattern(256), {.interlaced = true}),
      make_jpeg(16, 16, pattern(256), JCS_GRAYSCALE),
      make_jpeg(16, 16, pattern(768), JCS_RGB, /*progressive=*/true),
  };
  for (const std::string& file : files) {
    decode(file);
    // The last two bytes of a JPEG are its end mark, without which it is no file either.
    for (std::size_t n = 0; n < file.size(); ++n) {
      EXPECT_THAT(input_error([&] { decode(file.substr(0, n)); }), HasSubstr("file: ")) << n;
    }
  }
}

TEST(Pictures, AChangedByteOfAPngsPixelsIsRefused) {
  const std::string file = make_png(16, 16, pattern(256));
  const std::size_t data = file.find("IDAT") + 4, end = file.find("IEND") - 8;
  for (std::size_t i = data; i < end; ++i) {
    std::string changed = file;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    EXPECT_THAT(input_error([&] { decode(changed); }), HasSubstr("corrupt PNG")) << i;
  }
}

TEST(Pictures, NeitherPngNorJpeg) {
  EXPECT_THAT(input_error([&] { decode(""); }), HasSubstr("is empty"));
  EXPECT_THAT(input_error([&] { decode("GIF89a......"); }), HasSubstr("neither"));
}

// A header that announces more than the file can hold, or than is allowed.
TEST(Pictures, DecompressionBombsAreRefusedBeforeMemoryIsTaken) {
  const auto with_size = [](std::uint32_t width, std::uint32_t height) {
    std::string file = make_png(4, 4, pattern(16));
    for (int i = 0; i < 4; ++i) {
      file[16 + i] = static_cast<char>(width >> (24 - 8 * i));
      file[20 + i] = static_cast<char>(height >> (24 - 8 * i));
    }
    const auto* bytes = reinterpret_cast<const png_byte*>(file.data());
    const auto crc = static_cast<std::uint32_t>(crc32(crc32(0, nullptr, 0), bytes + 12, 17));
    for (int i = 0; i < 4; ++i) file[29 + i] = static_cast<char>(crc >> (24 - 8 * i));
    return file;
  };
  EXPECT_THAT(input_error([&] { decode(with_size(65536, 65536)); }), HasSubstr("65536 x 65536"));
  EXPECT_THAT(input_error([&] { decode(with_size(0x7fffffff, 0x7fffffff)); }),
              HasSubstr("allowed are 1 to"));
  EXPECT_THAT(input_error([&] { decode(with_size(8192, 8000)); }), HasSubstr("bytes can hold"));
  std::string jpeg = make_jpeg(8, 8, pattern(64), JCS_GRAYSCALE);
  const std::size_t frame = jpeg.find("\xff\xc0");
  for (const std::size_t i : {5, 6, 7, 8}) jpeg[frame + i] = '\xf0';
  EXPECT_THAT(input_error([&] { decode(jpeg); }), HasSubstr("61680 x 61680"));
}

TEST(Jpeg, TooManyScansAreRefused) {
  std::string file = make_jpeg(8, 8, pattern(64), JCS_GRAYSCALE, /*progressive=*/true);
  // The last scan, again and again.
  const std::size_t scan = file.rfind("\xff\xda"), end = file.rfind("\xff\xd9");
  const std::string piece = file.substr(scan, end - scan);
  for (int i = 0; i < 200; ++i) file.insert(end, piece);
  EXPECT_THAT(input_error([&] { decode(file); }), HasSubstr("corrupt JPEG"));
}

// ---- Records ----

Picture picture_of(std::int64_t height, std::int64_t width, int channels) {
  return {height, width, channels, pattern(static_cast<std::size_t>(height * width * channels))};
}

std::vector<std::uint8_t> record(PictureWriter& writer, const Picture& picture) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(writer.shape().numel()));
  writer.write(picture, "p", out.data());
  return out;
}

TEST(PictureWriter, GreyAsItIsColourByPlanes) {
  const Picture grey = picture_of(2, 3, 1), colour = picture_of(2, 2, 3);
  PictureWriter one({}, grey, "p"), three({}, colour, "p");
  EXPECT_EQ(one.shape(), (Shape{2, 3}));
  EXPECT_EQ(record(one, grey), grey.pixels);
  EXPECT_EQ(three.shape(), (Shape{3, 2, 2}));
  const auto& p = colour.pixels;
  EXPECT_EQ(record(three, colour),
            (std::vector<std::uint8_t>{p[0], p[3], p[6], p[9], p[1], p[4], p[7], p[10], p[2], p[5],
                                       p[8], p[11]}));
}

TEST(PictureWriter, ChannelsAreConvertedWhenAskedOnly) {
  const Picture grey = picture_of(1, 2, 1), colour{1, 2, 3, {255, 0, 0, 10, 20, 30}};
  PictureWriter as_first({}, grey, "first");
  EXPECT_THAT(input_error([&] { record(as_first, colour); }),
              AllOf(HasSubstr("in colour"), HasSubstr("channels")));
  PictureWriter to_grey({.channels = 1}, colour, "first"),
      to_colour({.channels = 3}, grey, "first");
  // (299 * 255 + 500) / 1000; (2990 + 11740 + 3420 + 500) / 1000
  EXPECT_EQ(record(to_grey, colour), (std::vector<std::uint8_t>{76, 18}));
  const std::uint8_t a = grey.pixels[0], b = grey.pixels[1];
  EXPECT_EQ(record(to_colour, grey), (std::vector<std::uint8_t>{a, b, a, b, a, b}));
}

TEST(PictureWriter, OtherSizesAreRefusedOrResized) {
  const Picture first = picture_of(2, 2, 1), other{2, 4, 1, {0, 10, 20, 30, 100, 110, 120, 130}};
  PictureWriter exact({}, first, "first"), stretch({.fit = PictureFit::resize}, first, "first"),
      crop({.fit = PictureFit::crop}, first, "first");
  EXPECT_THAT(input_error([&] { record(exact, other); }),
              AllOf(HasSubstr("2 x 4"), HasSubstr("2 x 2"), HasSubstr("RESIZE")));
  EXPECT_EQ(record(stretch, other), (std::vector<std::uint8_t>{5, 25, 105, 125}));
  EXPECT_EQ(record(crop, other), (std::vector<std::uint8_t>{10, 20, 110, 120}));
  EXPECT_THAT(input_error([&] { PictureWriter({.height = 65536, .width = 65536}, first, "p"); }),
              HasSubstr("65536 x 65536"));
}

std::vector<std::uint8_t> resized(const std::vector<std::uint8_t>& from, const Window& window,
                                  std::int64_t from_width, std::int64_t height,
                                  std::int64_t width) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(height * width));
  resize_picture(from.data(), from_width, window, 1, out.data(), height, width);
  return out;
}

TEST(Resize, MeansWhenShrinkingLinearWhenGrowing) {
  // 3 -> 2: output 0 is all of pixel 0 and half of pixel 1, over 1.5.
  EXPECT_EQ(resized({0, 30, 90}, {0, 0, 1, 3}, 3, 1, 2), (std::vector<std::uint8_t>{10, 70}));
  // 2 -> 4: places -1/4 (the edge), 1/4, 3/4, 5/4 (the edge).
  EXPECT_EQ(resized({0, 100}, {0, 0, 1, 2}, 2, 1, 4), (std::vector<std::uint8_t>{0, 25, 75, 100}));
  EXPECT_EQ(resized({7}, {0, 0, 1, 1}, 1, 3, 2), std::vector<std::uint8_t>(6, 7));
}

// The same from the definition, in real numbers.
TEST(Resize, IsTheDefinitionAtManySizes) {
  const auto weight = [](std::int64_t n, std::int64_t m, std::int64_t i, std::int64_t j) {
    const double scale = static_cast<double>(n) / static_cast<double>(m);
    if (m < n) {
      const double low = std::max(i * scale, double(j)), high = std::min((i + 1) * scale, j + 1.0);
      return std::max(0.0, high - low) / scale;
    }
    const double place = std::clamp((i + 0.5) * scale - 0.5, 0.0, double(n - 1));
    return std::max(0.0, 1 - std::abs(place - double(j)));
  };
  for (const std::int64_t n : {1, 2, 5, 8, 13}) {
    for (const std::int64_t m : {1, 3, 5, 9, 26}) {
      const auto from = pattern(static_cast<std::size_t>(n * (n + 2)));
      const auto out = resized(from, {0, 0, n, n + 2}, n + 2, m, m + 1);
      for (std::int64_t y = 0; y < m; ++y) {
        for (std::int64_t x = 0; x < m + 1; ++x) {
          double sum = 0;
          for (std::int64_t j = 0; j < n; ++j) {
            for (std::int64_t i = 0; i < n + 2; ++i) {
              sum += weight(n, m, y, j) * weight(n + 2, m + 1, x, i) *
                     from[static_cast<std::size_t>(j * (n + 2) + i)];
            }
          }
          EXPECT_NEAR(out[static_cast<std::size_t>(y * (m + 1) + x)], sum, 0.5 + 1e-9);
        }
      }
    }
  }
}

TEST(Resize, WindowsLieAboutTheCentre) {
  const auto expect = [](const Window& w, Window e) {
    EXPECT_TRUE(w.y == e.y && w.x == e.x && w.height == e.height && w.width == e.width)
        << w.y << " " << w.x << " " << w.height << " " << w.width;
  };
  expect(centre_window(10, 20, 1, 1), {0, 5, 10, 10});
  expect(centre_window(21, 10, 1, 1), {5, 0, 10, 10});
  expect(centre_window(10, 20, 28, 28), {0, 5, 10, 10});
  expect(centre_window(100, 1, 1, 100), {49, 0, 1, 1});
  expect(centre_window(6, 9, 2, 3), {0, 0, 6, 9});
}

// ---- Folders ----

class PictureFolders : public ::testing::Test {
 protected:
  void add(const std::string& name, const std::string& bytes) {
    std::filesystem::create_directories((folder_.path() / name).parent_path());
    folder_.write(name, bytes);
  }
  std::string open_error(const PictureOptions& options = {}) {
    return input_error([&] { open_picture_folder(folder_.path(), options); });
  }

  Folder folder_;
};

TEST_F(PictureFolders, ClassesAndPicturesInTheOrderOfTheirNames) {
  add("dog/2.png", make_png(2, 1, {1, 2}));
  add("dog/10.PNG", make_png(2, 1, {3, 4}));
  add("Cat/a.png", make_png(2, 1, {5, 6}));
  add("Cat/.hidden", "no picture");
  add("readme.txt", "not in a class");
  std::filesystem::create_symlink(folder_.path() / "dog/2.png", folder_.path() / "dog/link.png");
  const auto source = open_picture_folder(folder_.path(), {});
  ASSERT_EQ(source->size(), 4);
  EXPECT_EQ(source->record_shape(), (Shape{1, 2}));
  EXPECT_EQ(source->classes(), (std::vector<std::string>{"Cat", "dog"}));
  std::vector<std::uint8_t> bytes, out(2);
  std::vector<float> labels;
  for (std::int64_t i = 0; i < 4; ++i) {
    source->read(i, out.data());
    bytes.insert(bytes.end(), out.begin(), out.end());
    labels.push_back(source->label(i));
  }
  EXPECT_EQ(bytes, (std::vector<std::uint8_t>{5, 6, 3, 4, 1, 2, 1, 2}));
  EXPECT_EQ(labels, (std::vector<float>{0, 1, 1, 1}));
  EXPECT_THAT(source->record_name(1), HasSubstr("dog/10.PNG"));
}

TEST_F(PictureFolders, WhatIsWrongIsNamed) {
  EXPECT_THAT(input_error([&] { open_picture_folder(folder_ / "none", {}); }), HasSubstr("none"));
  EXPECT_THAT(open_error(), HasSubstr("no folder with pictures"));
  add("a/1.png", make_png(1, 1, {1}));
  std::filesystem::create_directory(folder_ / "b");
  EXPECT_THAT(open_error(), AllOf(HasSubstr("/b: "), HasSubstr("holds no pictures")));
  add("b/notes.txt", "text");
  EXPECT_THAT(open_error(), HasSubstr("b/notes.txt"));
  std::filesystem::remove(folder_ / "b/notes.txt");
  std::filesystem::create_symlink("loop.png", folder_ / "b/loop.png");
  EXPECT_THAT(open_error(), AllOf(HasSubstr("b/loop.png"), HasSubstr("cannot stat")));
  std::filesystem::remove_all(folder_ / "b");
  add("lost.png", make_png(1, 1, {1}));
  EXPECT_THAT(open_error(), AllOf(HasSubstr("lost.png"), HasSubstr("outside of a class")));
}

TEST_F(PictureFolders, CorruptPicturesAreToldApart) {
  add("a/0.png", "broken");
  add("a/1.png", make_png(2, 2, {1, 2, 3, 4}));
  add("a/2.png", make_png(2, 2, {1, 2, 3, 4}).substr(0, 60));
  EXPECT_THAT(open_error(), HasSubstr("a/0.png"));
  const auto source = open_picture_folder(folder_.path(), {.skip_corrupt = true});
  EXPECT_EQ(source->record_shape(), (Shape{2, 2}));
  EXPECT_THAT(source->corruption(0).value(), HasSubstr("a/0.png"));
  EXPECT_FALSE(source->corruption(1));
  EXPECT_THAT(source->corruption(2).value(), HasSubstr("a/2.png"));
  std::filesystem::remove(folder_ / "a/2.png");
  EXPECT_THAT(input_error([&] { source->corruption(2); }), HasSubstr("a/2.png"));
  std::filesystem::remove(folder_ / "a/1.png");
  EXPECT_THAT(open_error({.skip_corrupt = true}), HasSubstr("no picture that can be decoded"));
}

TEST_F(PictureFolders, FingerprintsChangeWithAnyFile) {
  add("a/0.png", make_png(1, 1, {1}));
  add("a/1.png", make_png(1, 1, {2}));
  const auto source = open_picture_folder(folder_.path(), {});
  const std::uint64_t whole = fingerprint_files(*source, 0, 2);
  EXPECT_EQ(whole, fingerprint_files(*source, 0, 1) + fingerprint_files(*source, 1, 2));
  const auto path = folder_ / "a/1.png";
  const auto time = std::filesystem::last_write_time(path);
  std::filesystem::last_write_time(path, time + std::chrono::seconds(1));
  EXPECT_NE(fingerprint_files(*source, 0, 2), whole);
  std::filesystem::last_write_time(path, time);
  EXPECT_EQ(fingerprint_files(*source, 0, 2), whole);
  std::filesystem::remove(path);
  EXPECT_THAT(input_error([&] { fingerprint_files(*source, 0, 2); }), HasSubstr("a/1.png"));
  std::filesystem::create_directory(path);
  EXPECT_THAT(input_error([&] { fingerprint_files(*source, 0, 2); }), HasSubstr("regular"));
}

}  // namespace
}  // namespace peal
