// What the sources of this folder ask of the schema by reflection. Not for use outside of it.
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/job.pb.h"

namespace peal::config {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The `range` option of a field; a field without one has every finite number.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = true;
  bool high_open = true;
  bool contains(double value) const;  // NaN and infinities never are
};

// Throws Error(internal) when the schema's text is no range.
Range range_of(const FieldDescriptor& field);

std::vector<std::string> field_names(const Descriptor& message);  // in the order of the schema
std::vector<std::string> enum_names(const FieldDescriptor& field);

// "int32", "list of float", "RELU or GELU", "text", "fields of SgdSpec"
std::string type_text(const FieldDescriptor& field);
// What a value of this field may be: "a whole number in [1, inf)", "one of RELU, GELU", ...
std::string wanted(const FieldDescriptor& field);

// `did you mean "epochs"? TrainSpec has epochs, seed, ...`, the nearest spelling first; without
// the question when nothing is near.
std::string suggest(std::string_view given, const Descriptor& message);

// The value of a singular scalar field, or of element `index` of a repeated one, as a job file
// writes it: floats as the shortest text that reads back the same, strings in quotes.
std::string value_text(const Message& message, const FieldDescriptor& field, int index = -1);
std::string default_text(const FieldDescriptor& field);
std::string quoted(std::string_view text);

// The number in a numeric field, for comparison with its range.
double number_of(const Message& message, const FieldDescriptor& field, int index = -1);
bool is_number(const FieldDescriptor& field);

// Throws Error(input) at `where` when a number of `field` is outside of its range. Strings,
// booleans, enums and messages pass.
void check_range(const Message& message, const FieldDescriptor& field, const std::string& where,
                 int index = -1);

}  // namespace peal::config
