// Formats: POSIX.1-2017, pax ("ustar interchange format", "pax extended header"); GNU tar manual,
// "Basic tar format".
#include "core/data/tar.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/data/gzip.h"

namespace peal {
namespace {

constexpr std::size_t kTarBlock = 512;
constexpr std::size_t kMostShown = 200;  // bytes of a name
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 62;
constexpr std::uint64_t kLongestName = 4096;
constexpr std::uint64_t kLargestPaxHeader = std::uint64_t{1} << 20;

using Block = std::array<std::byte, kTarBlock>;

// The archive's bytes in order, inflated.
class TarBytes {
 public:
  TarBytes(std::span<const std::byte> file, std::string where) : file_(file) {
    if (is_gzip(file)) gzip_.emplace(file, std::move(where));
  }

  std::uint64_t position() const { return position_; }

  std::size_t read(std::byte* out, std::size_t bytes) {
    std::size_t n;
    if (gzip_) {
      n = gzip_->read(out, bytes);
    } else {
      n = std::min<std::uint64_t>(bytes, file_.size() - position_);
      if (n > 0) std::memcpy(out, file_.data() + position_, n);
    }
    position_ += n;
    return n;
  }

  // False where the archive ends before.
  bool skip(std::uint64_t bytes) {
    if (!gzip_) {
      const std::uint64_t n = std::min<std::uint64_t>(bytes, file_.size() - position_);
      position_ += n;
      return n == bytes;
    }
    std::array<std::byte, 1 << 16> room;
    while (bytes > 0) {
      const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, room.size()));
      if (read(room.data(), piece) < piece) return false;
      bytes -= piece;
    }
    return true;
  }

 private:
  std::span<const std::byte> file_;
  std::optional<GzipReader> gzip_;
  std::uint64_t position_ = 0;
};

std::string_view text(const Block& block, std::size_t offset, std::size_t bytes) {
  const std::string_view field(reinterpret_cast<const char*>(block.data()) + offset, bytes);
  return field.substr(0, field.find('\0'));
}

bool is_zero(const Block& block) {
  return std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{0}; });
}

// Octal digits with spaces around them; nothing when it is something else.
std::optional<std::uint64_t> octal(std::string_view field) {
  while (field.starts_with(' ')) field.remove_prefix(1);
  while (field.ends_with(' ')) field.remove_suffix(1);
  std::uint64_t value = 0;
  const auto [end, code] = std::from_chars(field.data(), field.data() + field.size(), value, 8);
  if (field.empty() || code != std::errc() || end != field.data() + field.size()) return {};
  return value;
}

std::optional<std::uint64_t> size_field(const Block& block) {
  constexpr std::size_t kOffset = 124, kBytes = 12;
  if (block[kOffset] != std::byte{0x80}) return octal(text(block, kOffset, kBytes));
  std::uint64_t value = 0;  // GNU: a big-endian number
  for (std::size_t i = 1; i < kBytes; ++i) {
    if (value > kMostBytes >> 8) return {};
    value = value << 8 | std::to_integer<std::uint64_t>(block[kOffset + i]);
  }
  return value;
}

bool checksum_is_right(const Block& block) {
  constexpr std::size_t kOffset = 148, kBytes = 8;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < kTarBlock; ++i) {
    const bool own = i >= kOffset && i < kOffset + kBytes;
    sum += own ? std::uint64_t{' '} : std::to_integer<std::uint64_t>(block[i]);
  }
  return octal(text(block, kOffset, kBytes)) == sum;
}

bool leaves_the_folder(std::string_view name) {
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    if (name.substr(begin, end - begin) == "..") return true;
    begin = end + 1;
  }
  return name.starts_with('/');
}

}  // namespace

struct TarReader::Impl {
  Impl(std::span<const std::byte> file, std::string archive)
      : bytes(file, archive), where(std::move(archive)) {}

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    fail_input(where, "offset ", header_at, ": ", parts...);
  }

  bool read_header();
  void check_end();
  std::string read_long(std::uint64_t size, std::uint64_t most, const char* what);
  void read_pax(std::uint64_t size);
  void pax_field(std::string_view key, std::string_view value);
  std::string take_name();
  void leave_member();

  TarBytes bytes;
  std::string where;
  Block header{};
  std::uint64_t header_at = 0;
  std::uint64_t left = 0;  // bytes of the member, and then its padding, that nobody took
  std::uint64_t padding = 0;
  std::optional<std::string> long_name;  // for the member that follows
  std::optional<std::uint64_t> long_size;
  std::string name;
};

// False at the end of the archive.
bool TarReader::Impl::read_header() {
  header_at = bytes.position();
  const std::size_t n = bytes.read(header.data(), kTarBlock);
  if (n < kTarBlock) fail("the archive ends here without its end mark: it is truncated");
  if (is_zero(header)) {
    check_end();
    return false;
  }
  if (!checksum_is_right(header)) {
    if (header_at == 0) fail("this is no tar archive, or its first header is corrupt");
    fail("the header's checksum is wrong: the archive is corrupt");
  }
  return true;
}

void TarReader::Impl::check_end() {
  std::size_t blocks = 1;
  for (std::size_t n = kTarBlock; n == kTarBlock; ++blocks) {
    n = bytes.read(header.data(), kTarBlock);
    std::fill(header.begin() + static_cast<std::ptrdiff_t>(n), header.end(), std::byte{0});
    if (!is_zero(header)) fail("other bytes follow the end mark");
    if (n < kTarBlock && blocks == 1) fail("half an end mark: the archive is truncated");
  }
}

// The body of a header that speaks of the next member.
std::string TarReader::Impl::read_long(std::uint64_t size, std::uint64_t most, const char* what) {
  if (size > most) fail(what, " of ", size, " bytes; allowed are ", most);
  std::string body(size, '\0');
  auto* out = reinterpret_cast<std::byte*>(body.data());
  if (bytes.read(out, size) < size || !bytes.skip((kTarBlock - size % kTarBlock) % kTarBlock)) {
    fail("the archive ends inside ", what);
  }
  return body;
}

// Lines "<length> <key>=<value>\n", the length counting itself.
void TarReader::Impl::read_pax(std::uint64_t size) {
  const std::string body = read_long(size, kLargestPaxHeader, "a pax header");
  std::string_view rest = body;
  while (!rest.empty() && rest.front() != '\0') {
    std::size_t length = 0;
    const auto [end, code] = std::from_chars(rest.data(), rest.data() + rest.size(), length);
    const auto digits = static_cast<std::size_t>(end - rest.data());
    if (code != std::errc() || length > rest.size() || length < digits + 3 || rest[digits] != ' ' ||
        rest[length - 1] != '\n') {
      fail("a pax header that is corrupt");
    }
    const std::string_view line = rest.substr(digits + 1, length - digits - 2);
    const std::size_t equal = line.find('=');
    if (equal == std::string_view::npos) fail("a pax header that is corrupt");
    pax_field(line.substr(0, equal), line.substr(equal + 1));
    rest.remove_prefix(length);
  }
}

void TarReader::Impl::pax_field(std::string_view key, std::string_view value) {
  if (key == "path") {
    if (value.size() > kLongestName) fail("a name of ", value.size(), " bytes");
    long_name = value;
  } else if (key == "size") {
    std::uint64_t size = 0;
    const auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), size);
    if (code != std::errc() || end != value.data() + value.size() || size > kMostBytes) {
      fail("a pax header with size ", shown(value, kMostShown));
    }
    long_size = size;
  } else if (key.starts_with("GNU.sparse")) {
    fail("a sparse file; allowed are files with all their bytes");
  }
}

std::string TarReader::Impl::take_name() {
  std::string result;
  if (long_name) {
    result = std::move(*long_name);
    long_name.reset();
  } else {
    const bool ustar = std::memcmp(header.data() + 257, "ustar\0", 6) == 0;
    const std::string_view prefix = ustar ? text(header, 345, 155) : std::string_view();
    result = prefix.empty() ? "" : cat(prefix, "/");
    result += text(header, 0, 100);
  }
  if (const std::size_t nul = result.find('\0'); nul != std::string::npos) {
    fail("a name with a NUL: ", shown(result, kMostShown));
  }
  while (result.starts_with("./")) result.erase(0, 2);
  if (leaves_the_folder(result)) {
    fail("member ", shown(result, kMostShown), ": names are relative and have no \"..\"");
  }
  return result;
}

void TarReader::Impl::leave_member() {
  if (!bytes.skip(left) || !bytes.skip(padding)) {
    fail("the archive ends inside member ", shown(name, kMostShown), ": it is truncated");
  }
  left = padding = 0;
}

TarReader::TarReader(std::span<const std::byte> file, std::string where)
    : impl_(std::make_unique<Impl>(file, std::move(where))) {}

TarReader::~TarReader() = default;

bool TarReader::next(TarMember& member) {
  Impl& self = *impl_;
  self.leave_member();
  while (self.read_header()) {
    const auto own_size = size_field(self.header);
    if (!own_size || *own_size > kMostBytes) self.fail("a size that is no number below 2^62");
    const char type = static_cast<char>(self.header[156]);
    if (type == 'L') {
      std::string name = self.read_long(*own_size, kLongestName + 1, "a long name");
      self.long_name = name.substr(0, name.find('\0'));
    } else if (type == 'K') {
      self.read_long(*own_size, kLongestName + 1, "a long name");
    } else if (type == 'x') {
      self.read_pax(*own_size);
    } else if (type == 'g') {
      self.read_long(*own_size, kLargestPaxHeader, "a pax header");
    } else {
      const std::uint64_t size = self.long_size.value_or(*own_size);
      self.long_size.reset();
      self.name = self.take_name();
      const bool file = type == '0' || type == '\0' || type == '7';
      if (!file && type != '5') {
        self.fail("member ", shown(self.name, kMostShown),
                  " is a link, a device or of another special kind; "
                  "allowed are files and folders");
      }
      self.left = file ? size : 0;
      self.padding = (kTarBlock - self.left % kTarBlock) % kTarBlock;
      if (file && !self.name.ends_with('/')) {
        member = {self.name, self.bytes.position(), size};
        return true;
      }
      self.leave_member();
    }
  }
  if (self.long_name || self.long_size) self.fail("a long name or size without its member");
  return false;
}

void TarReader::read(std::byte* out) {
  Impl& self = *impl_;
  const std::uint64_t n = self.bytes.read(out, self.left);
  if (n < self.left) {
    self.fail("the archive ends inside member ", shown(self.name, kMostShown), ": it is truncated");
  }
  self.left = 0;
}

}  // namespace peal
