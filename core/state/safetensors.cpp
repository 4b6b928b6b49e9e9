#include "core/state/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kLargestHeader = std::uint64_t{100} << 20;
constexpr std::size_t kPrefix = 8;  // u64, little endian: bytes of the header

std::string make_header(const std::vector<NamedTensor>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const NamedTensor& named : tensors) {
    const Tensor& t = named.tensor;
    if (header.contains(named.name)) fail_internal(named.name, "two tensors have this name");
    header[named.name] = {{"dtype", safetensors_name(t.dtype)},
                          {"shape", t.shape.vector()},
                          {"data_offsets", {offset, offset + t.bytes()}}};
    offset += t.bytes();
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  // Spaces, which the format allows at the end, put the first tensor on an aligned offset.
  text.resize(align_up(kPrefix + text.size()) - kPrefix, ' ');
  return text;
}

// FileWriter that hashes what passes.
class HashingWriter {
 public:
  explicit HashingWriter(const std::filesystem::path& path) : file_(path) {}
  void write(const void* data, std::size_t bytes) {
    file_.write(data, bytes);
    hasher_.update(data, bytes);
  }
  std::uint64_t commit() {
    file_.commit();
    return hasher_.digest();
  }

 private:
  FileWriter file_;
  Hasher hasher_;
};

// Parses without trusting: a header is three levels deep, and a name stands once.
Json parse_header(std::string_view text, const std::string& where) {
  std::set<std::string> names;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    const bool opens =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth > 2) fail_input(where, "the header is nested too deeply");
    if (event == Json::parse_event_t::key && depth == 1 &&
        !names.insert(value.get<std::string>()).second) {
      fail_input(where, "tensor \"", value.get<std::string>(), "\" stands twice in the header");
    }
    return true;
  };
  try {
    Json header = Json::parse(text.begin(), text.end(), check);
    if (!header.is_object()) fail_input(where, "the header is no JSON object");
    return header;
  } catch (const nlohmann::json::exception& error) {
    fail_input(where, "the header is no JSON: ", error.what());
  }
}

struct Entry {
  NamedTensor tensor;
  std::uint64_t begin = 0, end = 0;
};

std::uint64_t whole_number(const Json& value, const std::string& where, const char* what) {
  if (!value.is_number_unsigned()) fail_input(where, what, " holds ", value.dump(), ", not a size");
  return value.get<std::uint64_t>();
}

const Json& member(const Json& entry, const char* name, const std::string& where) {
  const auto found = entry.find(name);
  if (found == entry.end()) fail_input(where, "has no ", name);
  return *found;
}

Shape read_shape(const Json& list, const std::string& where) {
  if (!list.is_array()) fail_input(where, "shape is no list");
  if (list.size() > static_cast<std::size_t>(Shape::kMaxRank)) {
    fail_input(where, "has ", list.size(), " dimensions; at most ", Shape::kMaxRank,
               " are allowed");
  }
  Shape shape;
  for (const Json& item : list) {
    const std::uint64_t dim = whole_number(item, where, "shape");
    if (dim > std::numeric_limits<std::int64_t>::max()) fail_input(where, "shape overflows");
    shape.push_back(static_cast<std::int64_t>(dim));
  }
  return shape;
}

// Bytes of a tensor; every partial product must fit, whatever a zero further on would make of it.
std::uint64_t checked_bytes(const Shape& shape, DType dtype, const std::string& where) {
  std::uint64_t bytes = size_of(dtype);
  for (const std::int64_t dim : shape) {
    std::uint64_t product = 0;
    const auto factor = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(dim));
    if (__builtin_mul_overflow(bytes, factor, &product) ||
        product > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail_input(where, "shape ", shape, " overflows");
    }
    bytes = product;
  }
  return std::find(shape.begin(), shape.end(), 0) == shape.end() ? bytes : 0;
}

Entry read_entry(const std::string& name, const Json& json, const std::string& where) {
  if (!json.is_object()) fail_input(where, "is no JSON object");
  Entry entry;
  entry.tensor.name = name;
  const Json& dtype = member(json, "dtype", where);
  if (!dtype.is_string()) fail_input(where, "dtype is no text");
  entry.tensor.tensor.dtype = dtype_from_safetensors(dtype.get<std::string>(), where);
  entry.tensor.tensor.shape = read_shape(member(json, "shape", where), where);
  const Json& offsets = member(json, "data_offsets", where);
  if (!offsets.is_array() || offsets.size() != 2) {
    fail_input(where, "data_offsets is no list of two");
  }
  entry.begin = whole_number(offsets[0], where, "data_offsets");
  entry.end = whole_number(offsets[1], where, "data_offsets");
  const std::uint64_t bytes =
      checked_bytes(entry.tensor.tensor.shape, entry.tensor.tensor.dtype, where);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    fail_input(where, "data_offsets [", entry.begin, ", ", entry.end, "] do not hold the ", bytes,
               " bytes of shape ", entry.tensor.tensor.shape);
  }
  return entry;
}

void check_metadata(const Json& json, const std::string& where) {
  bool good = json.is_object();
  for (const Json& value : json) good = good && value.is_string();
  if (!good) fail_input(where, "__metadata__ must map text to text");
}

std::string tensor_place(const std::string& file, const std::string& name) {
  return cat(file, ": tensor \"", name, "\"");
}

// The tensors must cover the data without gap or overlap.
void check_coverage(const std::vector<Entry>& entries, std::uint64_t data_bytes,
                    const std::string& where) {
  std::uint64_t covered = 0;
  for (const Entry& entry : entries) {
    const std::string place = tensor_place(where, entry.tensor.name);
    if (entry.begin < covered) fail_input(place, "overlaps the tensor before it");
    if (entry.begin > covered) {
      fail_input(place, "begins at ", entry.begin, " and leaves a gap after ", covered);
    }
    if (entry.end > data_bytes) {
      fail_input(place, "ends at ", entry.end, "; the file holds only ", data_bytes,
                 " bytes of data (is it truncated?)");
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    fail_input(where, data_bytes - covered, " bytes at the end belong to no tensor");
  }
}

std::uint64_t header_bytes(const MappedFile& file, const std::string& where) {
  if (file.size() < kPrefix) {
    fail_input(where, file.size(), " bytes are too few for a safetensors file");
  }
  std::uint64_t bytes = 0;
  std::memcpy(&bytes, file.data(), kPrefix);
  if (bytes > kLargestHeader || bytes > file.size() - kPrefix) {
    fail_input(where, "says that its header has ", bytes, " bytes; the file has ", file.size(),
               ", and a header at most ", kLargestHeader);
  }
  return bytes;
}

}  // namespace

std::uint64_t write_safetensors(const std::filesystem::path& path,
                                const std::vector<NamedTensor>& tensors,
                                const std::map<std::string, std::string>& metadata) {
  const std::string header = make_header(tensors, metadata);
  const std::uint64_t header_size = header.size();
  HashingWriter file(path);
  file.write(&header_size, kPrefix);
  file.write(header.data(), header.size());
  for (const NamedTensor& named : tensors) file.write(named.tensor.data, named.tensor.bytes());
  return file.commit();
}

std::vector<NamedTensor> read_safetensors(const MappedFile& file,
                                          const std::filesystem::path& path) {
  const std::string where = path.string();
  const std::uint64_t header_size = header_bytes(file, where);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kPrefix, header_size);
  const Json header = parse_header(text, where);
  std::vector<Entry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      check_metadata(json, where);
    } else {
      entries.push_back(read_entry(name, json, tensor_place(where, name)));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const std::uint64_t data_begin = kPrefix + header_size;
  check_coverage(entries, file.size() - data_begin, where);
  std::vector<NamedTensor> tensors;
  for (Entry& entry : entries) {
    // Views are read-only by contract; Tensor has no const form.
    entry.tensor.tensor.data = const_cast<std::byte*>(file.data()) + data_begin + entry.begin;
    tensors.push_back(std::move(entry.tensor));
  }
  return tensors;
}

}  // namespace peal
