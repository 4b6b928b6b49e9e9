#include "core/state/weights_file.h"

#include <bit>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/state/safetensors.h"

namespace peal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::size_t kLargestIndex = std::size_t{64} << 20;

// The tensors of all files, by name, as views into them.
struct Weights {
  std::vector<std::unique_ptr<MappedFile>> files;
  std::map<std::string, Tensor> tensors;
};

void add_file(Weights& weights, const fs::path& path) {
  const MappedFile& file = *weights.files.emplace_back(std::make_unique<MappedFile>(path));
  for (const NamedTensor& named : read_safetensors(file, path)) {
    if (!weights.tensors.emplace(current_name(named.name), named.tensor).second) {
      fail_input(path.string(), "tensor \"", named.name, "\" is in another file, too");
    }
  }
}

Weights read_index(const fs::path& path) {
  const std::map<std::string, std::string> places =
      parse_weights_index(read_file(path), path.string());
  std::set<std::string> names;
  for (const auto& [tensor, file] : places) names.insert(file);
  Weights weights;
  for (const std::string& name : names) add_file(weights, path.parent_path() / name);
  for (const auto& [tensor, file] : places) {
    if (!weights.tensors.contains(current_name(tensor))) {
      fail_input(path.string(), "says that tensor \"", tensor, "\" is in ", file,
                 ", which has none");
    }
  }
  return weights;
}

fs::path file_in(const fs::path& folder) {
  constexpr const char* kNames[] = {"model.safetensors.index.json", "model.safetensors",
                                    "weights.safetensors"};
  std::error_code code;
  for (const char* name : kNames)
    if (fs::exists(folder / name, code)) return folder / name;
  fail_input(folder.string(), "holds no weights; a folder must have one of ",
             join({std::begin(kNames), std::end(kNames)}));
}

Weights read_weights(fs::path path) {
  std::error_code code;
  if (fs::is_directory(path, code)) path = file_in(path);
  if (path.extension() == ".json") return read_index(path);
  Weights weights;
  add_file(weights, path);
  return weights;
}

// "a, b, c and 4 more"
std::string first_few(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 5;
  const std::size_t shown = std::min(names.size(), kMost);
  const std::string text =
      join({names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown)});
  return shown == names.size() ? text : cat(text, " and ", names.size() - shown, " more");
}

std::string tensors_text(std::size_t count) {
  return count == 1 ? "1 tensor" : cat(count, " tensors");
}

bool becomes_f32(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f64;
}

// Names that one side lacks are told together: often they are one thing under two names.
void check_names(const std::string& where, const Weights& weights,
                 const std::vector<NamedTensor>& into,
                 const std::function<bool(const std::string&)>& ignored) {
  std::set<std::string> wanted;
  std::vector<std::string> missing, extra, all;
  for (const NamedTensor& target : into) {
    wanted.insert(target.name);
    all.push_back(target.name);
    if (!weights.tensors.contains(target.name)) missing.push_back(target.name);
  }
  for (const auto& [name, tensor] : weights.tensors) {
    if (!wanted.contains(name) && !ignored(name)) extra.push_back(name);
  }
  if (missing.empty() && extra.empty()) return;
  std::string what;
  if (!missing.empty()) {
    what = cat("lacks ", tensors_text(missing.size()), " of the model: ", first_few(missing));
  }
  if (!extra.empty()) {
    what += cat(what.empty() ? "has " : "; it has ", tensors_text(extra.size()),
                " that the model has not: ", first_few(extra));
  }
  fail_input(where, what,
             ". Each tensor of the model must be there under its name: ", first_few(all));
}

void check_tensors(const std::string& where, const Weights& weights,
                   const std::vector<NamedTensor>& into) {
  std::vector<std::string> shapes, dtypes;
  for (const NamedTensor& target : into) {
    const Tensor& tensor = weights.tensors.at(target.name);
    if (tensor.shape != target.tensor.shape) {
      shapes.push_back(
          cat(target.name, " is ", tensor.shape, " and must be ", target.tensor.shape));
    }
    if (!becomes_f32(tensor.dtype)) dtypes.push_back(cat(target.name, " ", name_of(tensor.dtype)));
  }
  if (!shapes.empty()) {
    fail_input(where, "has ", tensors_text(shapes.size()),
               " of another shape than the model: ", first_few(shapes));
  }
  if (!dtypes.empty()) {
    fail_input(where, "has ", tensors_text(dtypes.size()),
               " of a dtype that does not become f32: ", first_few(dtypes),
               "; allowed are f32, f16, bf16 and f64");
  }
}

float f32_of_f16(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits} >> 15 << 31, rest = bits & 0x7fffu;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // The exponent's bias, 15, becomes 127 by a product, which subnormal numbers need.
  const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

float f32_of_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

// Tensors of a file need not be aligned.
template <typename T, typename Convert>
void convert(const Tensor& from, float* to, Convert to_f32) {
  const std::byte* bytes = from.as<std::byte>();
  for (std::int64_t i = 0; i < from.numel(); ++i) {
    T value;
    std::memcpy(&value, bytes + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    to[i] = to_f32(value);
  }
}

// Of a file in a folder, not in another one.
bool is_file_name(const std::string& name) {
  using namespace std::string_literals;
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of("/\0"s) == std::string::npos;
}

void copy_as_f32(const Tensor& from, float* to) {
  switch (from.dtype) {
    case DType::f64:
      return convert<double>(from, to, [](double value) { return static_cast<float>(value); });
    case DType::f16:
      return convert<std::uint16_t>(from, to, f32_of_f16);
    case DType::bf16:
      return convert<std::uint16_t>(from, to, f32_of_bf16);
    default:
      if (from.bytes() > 0) std::memcpy(to, from.data, from.bytes());
  }
}

}  // namespace

std::map<std::string, std::string> parse_weights_index(std::string_view text,
                                                       const std::string& where) {
  if (text.size() > kLargestIndex) {
    fail_input(where, text.size(), " bytes are too many for an index; at most ", kLargestIndex,
               " are allowed");
  }
  const auto check = [&](int depth, Json::parse_event_t event, Json&) {
    const bool opens =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth > 3) fail_input(where, "the index is nested too deeply");
    return true;
  };
  std::map<std::string, std::string> places;
  try {
    const Json index = Json::parse(text.begin(), text.end(), check);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
      fail_input(where, "has no weight_map of tensors and their files");
    }
    for (const auto& [name, file] : index["weight_map"].items()) {
      const bool plain = file.is_string() && is_file_name(file.get<std::string>());
      if (!plain) {
        fail_input(where, "tensor \"", name, "\" is in ", file.dump(-1, ' ', true),
                   "; a file must lie beside the index");
      }
      places[name] = file.get<std::string>();
    }
  } catch (const nlohmann::json::exception& error) {
    fail_input(where, "the index is no JSON: ", error.what());
  }
  return places;
}

void load_weights_file(const fs::path& path, const std::vector<NamedTensor>& into,
                       const std::function<bool(const std::string& name)>& ignored) {
  const std::string where = path.string();
  const Weights weights = read_weights(path);
  check_names(where, weights, into, ignored);
  check_tensors(where, weights, into);
  for (const NamedTensor& target : into) {
    copy_as_f32(weights.tensors.at(target.name), target.tensor.as<float>());
  }
}

}  // namespace peal
