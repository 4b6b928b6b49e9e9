#include "core/data/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/base/error.h"

namespace peal {

bool is_gzip(std::span<const std::byte> bytes) {
  return bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
}

struct GzipReader::Impl {
  std::span<const std::byte> file;
  std::string where;
  std::size_t taken = 0;  // bytes handed to zlib
  z_stream zlib{};
  bool ended = false;

  std::size_t offset() const { return taken - zlib.avail_in; }
  void feed();
  void member_ended();
};

GzipReader::GzipReader(std::span<const std::byte> file, std::string where)
    : impl_(std::make_unique<Impl>()) {
  impl_->file = file;
  impl_->where = std::move(where);
  constexpr int kGzipOnly = 16;
  if (inflateInit2(&impl_->zlib, kGzipOnly + MAX_WBITS) != Z_OK) {
    fail_internal(impl_->where, "zlib cannot start");
  }
}

GzipReader::~GzipReader() {
  if (impl_) inflateEnd(&impl_->zlib);
}

GzipReader::GzipReader(GzipReader&&) noexcept = default;

void GzipReader::Impl::feed() {
  if (zlib.avail_in > 0) return;
  const std::size_t bytes =
      std::min<std::size_t>(file.size() - taken, std::numeric_limits<uInt>::max());
  zlib.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(file.data() + taken));
  zlib.avail_in = static_cast<uInt>(bytes);
  taken += bytes;
}

void GzipReader::Impl::member_ended() {
  const std::size_t next = offset();
  if (next == file.size()) {
    ended = true;
  } else if (is_gzip(file.subspan(next))) {
    inflateReset(&zlib);
  } else {
    fail_input(where, "offset ", next, ": ", file.size() - next,
               " bytes behind the end of the gzip data");
  }
}

std::size_t GzipReader::read(void* out, std::size_t bytes) {
  Impl& self = *impl_;
  std::size_t done = 0;
  while (done < bytes && !self.ended) {
    self.feed();
    const auto room = std::min<std::size_t>(bytes - done, std::numeric_limits<uInt>::max());
    self.zlib.next_out = static_cast<Bytef*>(out) + done;
    self.zlib.avail_out = static_cast<uInt>(room);
    const int code = inflate(&self.zlib, Z_NO_FLUSH);
    done += room - self.zlib.avail_out;
    if (code == Z_STREAM_END) {
      self.member_ended();
    } else if (code == Z_BUF_ERROR ||
               (code == Z_OK && self.zlib.avail_out > 0 && self.offset() == self.file.size())) {
      fail_input(self.where, "the gzip data end early, at offset ", self.file.size());
    } else if (code != Z_OK) {
      fail_input(self.where, "offset ", self.offset(), ": corrupt gzip data (",
                 self.zlib.msg != nullptr ? self.zlib.msg : zError(code), ")");
    }
  }
  return done;
}

ReadBytes byte_reader(std::span<const std::byte> file, const std::string& where) {
  if (is_gzip(file)) {
    return [reader = std::make_shared<GzipReader>(file, where)](void* out, std::size_t bytes) {
      return reader->read(out, bytes);
    };
  }
  return [rest = file](void* out, std::size_t bytes) mutable {
    const std::size_t n = std::min(bytes, rest.size());
    if (n > 0) std::memcpy(out, rest.data(), n);
    rest = rest.subspan(n);
    return n;
  };
}

}  // namespace peal
