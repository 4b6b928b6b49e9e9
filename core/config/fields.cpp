#include "core/config/fields.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/base/error.h"

namespace peal::config {
namespace {

using CppType = FieldDescriptor::CppType;

double bound(std::string_view text, const FieldDescriptor& field) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) {
    fail_internal(field.full_name(), "\"", text, "\" is no bound of a range");
  }
  return value;
}

// Levenshtein's distance: insertions, deletions and replacements of one letter.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

template <typename T>
std::string chars(T value) {
  char text[64];
  const auto result = std::to_chars(text, text + sizeof text, value);
  return {text, result.ptr};
}

std::string scalar_type(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case CppType::CPPTYPE_BOOL:
      return "bool";
    case CppType::CPPTYPE_ENUM:
      return "enum";
    case CppType::CPPTYPE_STRING:
      return "text";
    case CppType::CPPTYPE_MESSAGE:
      return "fields of " + field.message_type()->name();
    default:
      return field.type_name();
  }
}

}  // namespace

bool Range::contains(double value) const {
  if (!std::isfinite(value)) return false;
  return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
}

Range range_of(const FieldDescriptor& field) {
  const std::string& text = field.options().GetExtension(peal::limits);
  if (text.empty()) return {};
  const std::size_t comma = text.find(',');
  if (text.size() < 5 || comma == std::string::npos || std::string("[(").find(text[0]) > 1 ||
      std::string("])").find(text.back()) > 1) {
    fail_internal(field.full_name(), "\"", text, "\" is no range");
  }
  Range range;
  range.low = bound(std::string_view(text).substr(1, comma - 1), field);
  range.high = bound(std::string_view(text).substr(comma + 1, text.size() - comma - 2), field);
  range.low_open = text[0] == '(';
  range.high_open = text.back() == ')';
  return range;
}

std::vector<std::string> field_names(const Descriptor& message) {
  std::vector<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) names.push_back(message.field(i)->name());
  return names;
}

std::vector<std::string> enum_names(const FieldDescriptor& field) {
  std::vector<std::string> names;
  for (int i = 0; i < field.enum_type()->value_count(); ++i) {
    names.push_back(field.enum_type()->value(i)->name());
  }
  return names;
}

std::string type_text(const FieldDescriptor& field) {
  return (field.is_repeated() ? "list of " : "") + scalar_type(field);
}

std::string wanted(const FieldDescriptor& field) {
  const std::string& range = field.options().GetExtension(peal::limits);
  const std::string within = range.empty() ? "" : " in " + range;
  switch (field.cpp_type()) {
    case CppType::CPPTYPE_BOOL:
      return "true or false";
    case CppType::CPPTYPE_ENUM:
      return "one of " + join(enum_names(field));
    case CppType::CPPTYPE_STRING:
      return "text in quotes";
    case CppType::CPPTYPE_MESSAGE:
      return cat("{ fields } of ", field.message_type()->name(), ": ",
                 join(field_names(*field.message_type())));
    case CppType::CPPTYPE_FLOAT:
    case CppType::CPPTYPE_DOUBLE:
      return "a finite number" + within;
    default:
      return cat("a whole number (", field.type_name(), ")", within);
  }
}

std::string suggest(std::string_view given, const Descriptor& message) {
  std::vector<std::string> names = field_names(message);
  if (names.empty()) return message.name() + " has no fields";
  std::stable_sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(given, a) < edit_distance(given, b);
  });
  const std::size_t near = std::max<std::size_t>(2, given.size() / 3);
  const bool ask = edit_distance(given, names[0]) <= near && names[0].size() > near;
  return cat(ask ? "did you mean " + quoted(names[0]) + "? " : "", message.name(), " has ",
             join(names));
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      char octal[8];
      std::snprintf(octal, sizeof octal, "\\%03o", static_cast<unsigned>(byte));
      out += octal;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string value_text(const Message& message, const FieldDescriptor& field, int index) {
  const auto& r = *message.GetReflection();
  const auto* f = &field;
  switch (field.cpp_type()) {
    case CppType::CPPTYPE_BOOL:
      return (index < 0 ? r.GetBool(message, f) : r.GetRepeatedBool(message, f, index)) ? "true"
                                                                                        : "false";
    case CppType::CPPTYPE_ENUM:
      return (index < 0 ? r.GetEnum(message, f) : r.GetRepeatedEnum(message, f, index))->name();
    case CppType::CPPTYPE_STRING:
      return quoted(index < 0 ? r.GetString(message, f) : r.GetRepeatedString(message, f, index));
    case CppType::CPPTYPE_INT32:
      return chars(index < 0 ? r.GetInt32(message, f) : r.GetRepeatedInt32(message, f, index));
    case CppType::CPPTYPE_INT64:
      return chars(index < 0 ? r.GetInt64(message, f) : r.GetRepeatedInt64(message, f, index));
    case CppType::CPPTYPE_UINT32:
      return chars(index < 0 ? r.GetUInt32(message, f) : r.GetRepeatedUInt32(message, f, index));
    case CppType::CPPTYPE_UINT64:
      return chars(index < 0 ? r.GetUInt64(message, f) : r.GetRepeatedUInt64(message, f, index));
    case CppType::CPPTYPE_FLOAT:
      return chars(index < 0 ? r.GetFloat(message, f) : r.GetRepeatedFloat(message, f, index));
    case CppType::CPPTYPE_DOUBLE:
      return chars(index < 0 ? r.GetDouble(message, f) : r.GetRepeatedDouble(message, f, index));
    case CppType::CPPTYPE_MESSAGE:
      break;
  }
  fail_internal(field.full_name(), "is no single value");
}

std::string default_text(const FieldDescriptor& field) {
  if (field.is_repeated()) return "[]";
  const auto* owner =
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(field.containing_type());
  return value_text(*owner, field);
}

bool is_number(const FieldDescriptor& field) {
  const CppType type = field.cpp_type();
  return type != CppType::CPPTYPE_BOOL && type != CppType::CPPTYPE_ENUM &&
         type != CppType::CPPTYPE_STRING && type != CppType::CPPTYPE_MESSAGE;
}

double number_of(const Message& message, const FieldDescriptor& field, int index) {
  const std::string text = value_text(message, field, index);
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

void check_range(const Message& message, const FieldDescriptor& field, const std::string& where,
                 int index) {
  if (!is_number(field)) return;
  if (range_of(field).contains(number_of(message, field, index))) return;
  fail_input(where, value_text(message, field, index), " is not allowed; wants ", wanted(field));
}

}  // namespace peal::config
