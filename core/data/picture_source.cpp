#include "core/data/picture_source.h"

#include <algorithm>

#include "core/base/error.h"

namespace peal {

bool is_picture_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return false;
  std::string ending(name.substr(dot + 1));
  for (char& c : ending) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return ending == "png" || ending == "jpg" || ending == "jpeg";
}

void PictureSource::read(std::int64_t index, void* out) {
  const std::string where = record_name(index);
  decode_picture(bytes(index), where, picture_);
  writer_->write(picture_, where, out);
}

std::optional<std::string> PictureSource::corruption(std::int64_t index) {
  const std::span<const std::byte> file = bytes(index);
  try {
    decode_picture(file, record_name(index), picture_);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input) throw;
    return error.what();
  }
  return {};
}

void PictureSource::probe() {
  std::int64_t first = 0;
  while (options_.skip_corrupt && first < size() && corruption(first)) ++first;
  if (first == size()) fail_input(name_, "holds no picture that can be decoded");
  decode_picture(bytes(first), record_name(first), picture_);
  writer_.emplace(options_, picture_, record_name(first));
}

}  // namespace peal
