#include "core/data/idx.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/data/gzip.h"
#include "core/data/records.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

constexpr int kMostDims = Shape::kMaxRank + 1;

struct Type {
  int code;
  std::size_t bytes;
  float (*load)(const unsigned char*);  // big-endian element -> f32
};

template <typename Bits>
Bits load_bits(const unsigned char* p) {
  Bits bits = 0;
  for (std::size_t i = 0; i < sizeof(Bits); ++i) bits = static_cast<Bits>(bits << 8 | p[i]);
  return bits;
}

constexpr std::array<Type, 6> kTypes = {{
    {0x08, 1, nullptr},
    {0x09, 1, [](const unsigned char* p) { return float(static_cast<std::int8_t>(*p)); }},
    {0x0B, 2,
     [](const unsigned char* p) {
       return float(static_cast<std::int16_t>(load_bits<std::uint16_t>(p)));
     }},
    {0x0C, 4,
     [](const unsigned char* p) {
       return float(static_cast<std::int32_t>(load_bits<std::uint32_t>(p)));
     }},
    {0x0D, 4,
     [](const unsigned char* p) { return std::bit_cast<float>(load_bits<std::uint32_t>(p)); }},
    {0x0E, 8,
     [](const unsigned char* p) {
       const double value = std::bit_cast<double>(load_bits<std::uint64_t>(p));
       // A conversion that overflows is undefined; infinity is what the caller looks for.
       if (std::abs(value) > 3.4028234663852886e38) return float(std::copysign(HUGE_VAL, value));
       return float(value);
     }},
}};

struct Header {
  const Type* type = nullptr;
  std::vector<std::int64_t> dims;
  std::uint64_t header_bytes = 0;
  std::uint64_t data_bytes = 0;
};

void read_header_part(const ReadBytes& read, unsigned char* out, std::size_t bytes,
                      std::size_t offset, const std::string& where) {
  const std::size_t n = read(out, bytes);
  if (n == bytes) return;
  if (offset + n == 0) fail_input(where, "is empty; an IDX file was expected");
  fail_input(where, "ends at offset ", offset + n, ", inside the IDX header, which goes on to ",
             offset + bytes);
}

std::string hex_bytes(const unsigned char* bytes, int count) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += ' ';
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

const Type& find_type(int code, const std::string& where) {
  for (const Type& type : kTypes) {
    if (type.code == code) return type;
  }
  const unsigned char byte = static_cast<unsigned char>(code);
  fail_input(where, "offset 2: element type ", hex_bytes(&byte, 1),
             "; allowed are 08 (u8), 09 (i8), 0b (i16), 0c (i32), 0d (f32), 0e (f64)");
}

std::string dims_text(const std::vector<std::int64_t>& dims) {
  std::vector<std::string> parts;
  for (const std::int64_t dim : dims) parts.push_back(std::to_string(dim));
  return cat("(", join(parts), ")");
}

Header read_header(const ReadBytes& read, const std::string& where) {
  unsigned char magic[4];
  read_header_part(read, magic, 4, 0, where);
  if (magic[0] != 0 || magic[1] != 0) {
    fail_input(where, "offset 0: begins with ", hex_bytes(magic, 4),
               "; an IDX file begins with 00 00, a type and a rank");
  }
  Header header;
  header.type = &find_type(magic[2], where);
  const int rank = magic[3];
  if (rank < 1 || rank > kMostDims) {
    fail_input(where, "offset 3: rank ", rank, "; allowed are 1 to ", kMostDims);
  }
  for (int i = 0; i < rank; ++i) {
    const std::size_t offset = 4 + 4 * static_cast<std::size_t>(i);
    unsigned char bytes[4];
    read_header_part(read, bytes, 4, offset, where);
    header.dims.push_back(load_bits<std::uint32_t>(bytes));
    if (header.dims.back() == 0) {
      fail_input(where, "offset ", offset, ": dimension ", i, " is 0; allowed are 1 and above",
                 i == 0 ? " (the file holds no records)" : "");
    }
  }
  header.header_bytes = 4 + 4 * static_cast<std::uint64_t>(rank);
  const auto bytes = checked_bytes(header.dims, header.type->bytes);
  if (!bytes) {
    fail_input(where, "offset 4: dimensions ", dims_text(header.dims),
               " announce more bytes than any file can hold");
  }
  header.data_bytes = *bytes;
  return header;
}

[[noreturn]] void fail_size(const Header& header, const std::string& found,
                            const std::string& where) {
  fail_input(where, "dimensions ", dims_text(header.dims), " announce ", header.data_bytes,
             " bytes from offset ", header.header_bytes, "; found ", found);
}

// Plain files are left where they are (mapped); gzip is inflated straight into its final memory.
IdxArray take_body(std::span<const std::byte> file, const Header& header, const ReadBytes& read,
                   const std::string& where) {
  IdxArray array;
  array.dims = header.dims;
  if (!is_gzip(file)) {
    const std::uint64_t found = file.size() - header.header_bytes;
    if (found != header.data_bytes) fail_size(header, cat(found), where);
    array.data = file.data() + header.header_bytes;
    return array;
  }
  if (header.data_bytes / kMostInflation > file.size()) {
    fail_size(header, cat("a gzip file of ", file.size(), " bytes, too small to hold them"), where);
  }
  auto memory = std::make_shared<Buffer>(header.data_bytes);
  const std::size_t n = read(memory->data(), memory->size());
  if (n != memory->size()) fail_size(header, cat(n), where);
  std::byte extra;
  if (read(&extra, 1) != 0) fail_size(header, "more", where);
  array.data = memory->data();
  array.owner = std::move(memory);
  return array;
}

void convert_to_f32(IdxArray& array, const Type& type) {
  const std::uint64_t count = checked_bytes(array.dims, 1).value();
  auto values = std::make_shared<std::vector<float>>(count);
  const auto* bytes = reinterpret_cast<const unsigned char*>(array.data);
  for (std::uint64_t i = 0; i < count; ++i) (*values)[i] = type.load(bytes + i * type.bytes);
  array.dtype = DType::f32;
  array.data = reinterpret_cast<const std::byte*>(values->data());
  array.owner = std::move(values);
}

std::vector<float> labels_from(const IdxArray& array, const std::string& where) {
  const std::int64_t count = array.dims[0];
  if (static_cast<std::int64_t>(checked_bytes(array.dims, 1).value()) != count) {
    fail_input(where, "offset 3: dimensions ", dims_text(array.dims),
               "; labels are one number a record");
  }
  std::vector<float> labels(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    labels[i] = array.dtype == DType::u8 ? float(std::to_integer<int>(array.data[i]))
                                         : reinterpret_cast<const float*>(array.data)[i];
    if (!std::isfinite(labels[i])) {
      fail_input(where, "label ", i, " is ", labels[i], "; allowed are finite numbers");
    }
  }
  return labels;
}

}  // namespace

IdxArray parse_idx(std::span<const std::byte> file, const std::string& where) {
  const ReadBytes read = byte_reader(file, where);
  const Header header = read_header(read, where);
  IdxArray array = take_body(file, header, read, where);
  if (header.type->load != nullptr) convert_to_f32(array, *header.type);
  return array;
}

std::unique_ptr<Dataset> open_idx(const std::filesystem::path& images,
                                  const std::filesystem::path& labels) {
  auto map = std::make_shared<MappedFile>(images);
  IdxArray array = parse_idx({map->data(), map->size()}, images.string());
  const MappedFile label_map(labels);
  const IdxArray label_array = parse_idx({label_map.data(), label_map.size()}, labels.string());
  if (label_array.dims[0] != array.dims[0]) {
    fail_input(labels.string(), "holds ", label_array.dims[0], " labels; ", images.string(),
               " holds ", array.dims[0], " records: one label a record is needed");
  }
  // A record of one number has shape (1), so that a batch is a matrix.
  Shape shape;
  for (std::size_t i = 1; i < array.dims.size(); ++i) shape.push_back(array.dims[i]);
  if (shape.rank() == 0) shape.push_back(1);
  std::shared_ptr<const void> owner = array.owner;
  if (owner == nullptr) owner = map;
  return array_dataset({images.string(), shape, array.dtype, array.data,
                        labels_from(label_array, labels.string()), std::move(owner)});
}

}  // namespace peal
