// `--set path=value` by reflection.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include <charconv>
#include <optional>

#include "core/base/error.h"
#include "core/config/fields.h"
#include "core/config/job.h"

namespace peal {
namespace {

using config::Descriptor;
using config::FieldDescriptor;
using config::Message;

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

struct Step {
  std::string name;
  std::optional<int> index;  // of name[index]
};

Step parse_step(std::string_view text, const std::string& path) {
  const std::size_t bracket = text.find('[');
  Step step{std::string(text.substr(0, bracket)), std::nullopt};
  if (bracket == std::string_view::npos) return step;
  const std::string_view digits = text.substr(bracket + 1);
  int index = -1;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  const bool closed = end + 1 == digits.data() + digits.size() && *end == ']';
  if (code != std::errc() || !closed || index < 0) {
    fail_input(path, "\"", text, "\" is no list element; write name[0], name[1], ...");
  }
  step.index = index;
  return step;
}

std::vector<Step> parse_path(std::string_view text) {
  const std::string path(text);
  std::vector<Step> steps;
  while (true) {
    const std::size_t dot = text.find('.');
    steps.push_back(parse_step(text.substr(0, dot), path));
    if (dot == std::string_view::npos) return steps;
    text.remove_prefix(dot + 1);
  }
}

class FirstMessage : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int, google::protobuf::io::ColumnNumber, const std::string& message) override {
    if (text.empty()) text = message;
  }
  std::string text;
};

// What the text-format parser is given for `text`: strings get quotes unless they have them.
// Names only for enums and booleans, although the parser knows numbers for both.
std::optional<std::string> value_to_parse(std::string_view text, const FieldDescriptor& field) {
  const std::string value(text);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      const bool has_quotes = !text.empty() && (text[0] == '"' || text[0] == '\'');
      return has_quotes ? value : config::quoted(text);
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return std::nullopt;
      return value;
    case FieldDescriptor::CPPTYPE_ENUM:
      if (field.enum_type()->FindValueByName(value) == nullptr) return std::nullopt;
      return value;
    default:
      return value;
  }
}

// Sets a singular field, or element `index` of a list, or adds it when the list is that long.
void set_value(Message& message, const FieldDescriptor& field, std::optional<int> index,
               std::string_view text, const std::string& path) {
  const auto& reflection = *message.GetReflection();
  const std::optional<std::string> value = value_to_parse(text, field);
  if (!field.is_repeated()) reflection.ClearField(&message, &field);
  FirstMessage errors;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  // An open quote is reported and yet counts as parsed.
  if (!value || !parser.ParseFieldValueFromString(*value, &field, &message) ||
      !errors.text.empty()) {
    fail_input(path, "wants ", config::wanted(field), ", not ", config::quoted(text));
  }
  const int last = index ? reflection.FieldSize(message, &field) - 1 : -1;
  config::check_range(message, field, path, last);
  if (!index || *index == last) return;
  reflection.SwapElements(&message, &field, *index, last);
  reflection.RemoveLast(&message, &field);
}

// "[1, 2]" replaces the list; so does a value by itself, which becomes its one element.
void set_list(Message& message, const FieldDescriptor& field, std::string_view text,
              const std::string& path) {
  const bool is_text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  const bool several = !is_text && text.find(',') != std::string_view::npos;
  if (field.message_type() == nullptr && !several && !text.empty() && text.front() != '[') {
    message.GetReflection()->ClearField(&message, &field);
    return set_value(message, field, 0, text, path);
  }
  if (text.size() < 2 || text.front() != '[' || text.back() != ']') {
    fail_input(path, "wants a list such as ", is_text ? "[a, b]" : "[1, 2]", " of ",
               config::wanted(field), ", not ", config::quoted(text));
  }
  message.GetReflection()->ClearField(&message, &field);
  text = trim(text.substr(1, text.size() - 2));
  if (text.empty()) return;
  if (field.message_type() != nullptr) {
    fail_input(path, "set elements one by one, as in ", field.name(),
               "[0].NAME={}, or [] for none");
  }
  for (int index = 0;; ++index) {
    const std::size_t comma = text.find(',');
    set_value(message, field, index, trim(text.substr(0, comma)), cat(path, "[", index, "]"));
    if (comma == std::string_view::npos) return;
    text.remove_prefix(comma + 1);
  }
}

// "{}" or "{ name: value ... }" replaces a group; how a case without fields is chosen.
void set_group(Message& group, std::string_view text, const std::string& path) {
  if (text.size() < 2 || text.front() != '{' || text.back() != '}') {
    fail_input(path, "is a group, not a value; set one of its fields, such as ", path,
               ".NAME=VALUE, or write {}; ", group.GetDescriptor()->name(), " has ",
               join(config::field_names(*group.GetDescriptor())));
  }
  FirstMessage errors;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  const bool parsed = parser.ParseFromString(std::string(text.substr(1, text.size() - 2)), &group);
  if (!parsed || !errors.text.empty()) {
    fail_input(path, errors.text, " ", group.GetDescriptor()->name(), " has ",
               join(config::field_names(*group.GetDescriptor())));
  }
}

// The field that a step names; throws with what is allowed there.
const FieldDescriptor& find(const Descriptor& message, const Step& step, const std::string& path) {
  const FieldDescriptor* field = message.FindFieldByName(step.name);
  if (field == nullptr) {
    fail_input(path, "no such field; ", config::suggest(step.name, message));
  }
  if (step.index && !field->is_repeated()) fail_input(path, "is no list and takes no [index]");
  return *field;
}

void check_index(const Message& message, const FieldDescriptor& field, int index,
                 const std::string& path) {
  const int size = message.GetReflection()->FieldSize(message, &field);
  if (index <= size) return;
  fail_input(path, "the list has ", size, " elements; index ", size, " adds one");
}

// Goes down into a group, making it where it is not there.
Message& enter(Message& message, const FieldDescriptor& field, const Step& step,
               const std::string& path) {
  const auto& r = *message.GetReflection();
  if (field.message_type() == nullptr) fail_input(path, "is a value and has no fields");
  if (!field.is_repeated()) return *r.MutableMessage(&message, &field);
  if (!step.index) {
    fail_input(path, "is a list; name an element, such as ", step.name, "[0]");
  }
  check_index(message, field, *step.index, path);
  if (*step.index == r.FieldSize(message, &field)) return *r.AddMessage(&message, &field);
  return *r.MutableRepeatedMessage(&message, &field, *step.index);
}

void assign(Message& message, const FieldDescriptor& field, const Step& step, std::string_view text,
            const std::string& path) {
  const bool whole_list = field.is_repeated() && !step.index;
  if (whole_list) {
    set_list(message, field, text, path);
  } else if (field.message_type() != nullptr) {
    set_group(enter(message, field, step, path), text, path);
  } else {
    if (step.index) check_index(message, field, *step.index, path);
    set_value(message, field, step.index, text, path);
  }
}

}  // namespace

void set_field(JobSpec& job, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    fail_input(config::quoted(assignment), "write path=value, such as train.epochs=3");
  }
  const std::string path(trim(std::string_view(assignment).substr(0, equals)));
  const std::string_view text = trim(std::string_view(assignment).substr(equals + 1));
  const std::vector<Step> steps = parse_path(path);
  JobSpec changed = job;  // a refused assignment changes nothing
  Message* message = &changed;
  std::string so_far;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    so_far += (i == 0 ? "" : ".") + steps[i].name;
    if (steps[i].index) so_far += cat("[", *steps[i].index, "]");
    const FieldDescriptor& field = find(*message->GetDescriptor(), steps[i], so_far);
    if (i + 1 == steps.size()) {
      assign(*message, field, steps[i], text, so_far);
    } else {
      message = &enter(*message, field, steps[i], so_far);
    }
  }
  job = std::move(changed);
}

}  // namespace peal
