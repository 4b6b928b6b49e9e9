#include "core/config/job.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <optional>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/config/fields.h"

namespace peal {
namespace {

using config::FieldDescriptor;
using google::protobuf::io::ArrayInputStream;
using google::protobuf::io::Tokenizer;

constexpr std::size_t kLargestJob = std::size_t{1} << 20;

struct Place {
  int line = 0, column = 0;  // from 0, as the tokenizer counts
  friend auto operator<=>(const Place&, const Place&) = default;
};

struct Complaint {
  Place place;
  std::string text;
};

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (!first) first = Complaint{{line, column}, message};
  }
  std::optional<Complaint> first;
};

// Where in the text an error is: the field it belongs to and the value that was given.
struct Context {
  std::vector<std::string> path;  // groups that are open
  std::string name;               // the last field name before the error
  Place name_at;
  std::string value;  // the last value of that field up to the error
  Place value_at;
  bool at_end = false;  // the error is where the text ends
};

// Follows the tokens up to an error. The library says where it stopped and why, but not in which
// field; this finds it.
class Scanner {
 public:
  Context scan(const std::string& text, Place stop) {
    ArrayInputStream stream(text.data(), static_cast<int>(text.size()));
    FirstError ignored;
    Tokenizer tokens(&stream, &ignored);
    tokens.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
    tokens.set_allow_f_after_float(true);
    tokens.set_require_space_after_number(false);
    while (tokens.Next()) {
      const Place at{tokens.current().line, tokens.current().column};
      if (at > stop) return context_;
      take(tokens.current(), at, at == stop);
      // An error at a minus sign is about the number after it.
      if (at == stop && tokens.current().text == "-" && tokens.Next()) {
        context_.value += tokens.current().text;
      }
      if (at == stop) return context_;
    }
    context_.at_end = true;
    return context_;
  }

 private:
  void take(const Tokenizer::Token& token, Place at, bool is_stop) {
    const std::string& text = token.text;
    if (text == "{" || text == "<") {
      open(is_stop);
    } else if (text == "}" || text == ">") {
      if (!is_stop) close();
    } else if (text == "[") {
      ++lists_.back();
    } else if (text == "]") {
      if (lists_.back() > 0) --lists_.back();
    } else if (is_value(text)) {
      if (previous_ == "-") {
        context_.value += text;
      } else {
        context_.value = text;
        context_.value_at = at;
      }
    } else if (token.type == Tokenizer::TYPE_IDENTIFIER && !is_stop) {
      context_.name = text;
      context_.name_at = at;
      context_.value.clear();
    }
    previous_ = text;
  }

  bool is_value(const std::string& text) const {
    if (text == "," || text == ":" || text == ";") return false;
    return previous_ == ":" || previous_ == "-" || lists_.back() > 0;
  }

  void open(bool is_stop) {
    if (is_stop) return;
    context_.path.push_back(context_.name);
    context_.name.clear();
    lists_.push_back(0);
  }

  void close() {
    if (context_.path.empty()) return;
    context_.name.clear();
    context_.path.pop_back();
    lists_.pop_back();
  }

  Context context_;
  std::string previous_;
  std::vector<int> lists_ = {0};  // per open group: how many '[' are open
};

// The message that holds the field in error, or nothing when the path is not in the schema.
const config::Descriptor* message_at(const std::vector<std::string>& path) {
  const config::Descriptor* message = JobSpec::descriptor();
  for (const std::string& name : path) {
    const FieldDescriptor* field = message->FindFieldByName(name);
    if (field == nullptr || field->message_type() == nullptr) return nullptr;
    message = field->message_type();
  }
  return message;
}

[[noreturn]] void fail_at(const std::string& where, Place place, const std::string& path,
                          const std::string& message) {
  fail_input(cat(where, ":", place.line + 1, ":", place.column + 1, path.empty() ? "" : ": ", path),
             message);
}

// What the library complains about is looked for where its own words stand: it also quotes the job,
// in which anything may.
bool begins(const Complaint& complaint, std::string_view words) {
  return std::string_view(complaint.text).starts_with(words);
}

bool ends(const Complaint& complaint, std::string_view words) {
  return std::string_view(complaint.text).ends_with(words);
}

// The library stops at a value that it cannot read, or right after one that it does not know.
bool is_about_value(const Complaint& complaint, const Context& context) {
  if (context.value.empty()) return false;
  return complaint.place == context.value_at || begins(complaint, "Integer out of range") ||
         begins(complaint, "Unknown enumeration") || begins(complaint, "Invalid value for boolean");
}

// Says in our words what the library complains about.
[[noreturn]] void explain(const std::string& where, const std::string& text,
                          const Complaint& complaint) {
  const Context context = Scanner().scan(text, complaint.place);
  const config::Descriptor* message = message_at(context.path);
  std::string path = join(context.path, ".");
  if (context.at_end && !context.path.empty()) {
    fail_at(where, complaint.place, path, "the text ends before the closing }");
  }
  if (!context.name.empty()) path += (path.empty() ? "" : ".") + context.name;
  if (message == nullptr || context.name.empty()) {
    fail_at(where, complaint.place, path, "syntax error: " + complaint.text);
  }
  const FieldDescriptor* field = message->FindFieldByName(context.name);
  if (field == nullptr) {
    fail_at(where, context.name_at, path,
            "no such field; " + config::suggest(context.name, *message));
  }
  if (begins(complaint, "Non-repeated field") && ends(complaint, "is specified multiple times.")) {
    fail_at(where, context.name_at, path, "is given twice");
  }
  const auto* choice = field->containing_oneof();
  if (choice != nullptr && begins(complaint, "Field \"")) {
    std::vector<std::string> names;
    for (int i = 0; i < choice->field_count(); ++i) names.push_back(choice->field(i)->name());
    fail_at(where, context.name_at, path, "only one may be given of " + join(names));
  }
  const bool wants_colon = begins(complaint, "Expected \":\"");
  if (wants_colon) fail_at(where, complaint.place, path, "write a colon between name and value");
  if (!is_about_value(complaint, context)) {
    fail_at(where, complaint.place, path, "syntax error: " + complaint.text);
  }
  fail_at(where, context.value_at, path,
          cat("wants ", config::wanted(*field), ", not ", context.value));
}

// A tokenizer error about a control character says little; a job is text.
void refuse_binary(const std::string& text, const std::string& where) {
  Place place;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 && c != '\n' && c != '\t' && c != '\r' && c != '\v' && c != '\f') {
      fail_at(where, place, "", cat("byte ", int{byte}, " is no text; a job is a text file"));
    }
    place = c == '\n' ? Place{place.line + 1, 0} : Place{place.line, place.column + 1};
  }
}

void refuse_large(std::uintmax_t bytes, const std::string& where) {
  if (bytes <= kLargestJob) return;
  fail_input(where, bytes, " bytes are too many for a job; at most ", kLargestJob, " are allowed");
}

}  // namespace

JobSpec parse_job(const std::string& text, const std::string& where) {
  refuse_large(text.size(), where);
  refuse_binary(text, where);
  FirstError errors;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  JobSpec job;
  const bool parsed = parser.ParseFromString(text, &job);
  if (errors.first) explain(where, text, *errors.first);
  if (!parsed) fail_input(where, "cannot be read as a job");
  return job;
}

JobSpec load_job(const std::filesystem::path& file) {
  std::error_code code;
  const std::uintmax_t bytes = std::filesystem::file_size(file, code);
  if (!code) refuse_large(bytes, file.string());
  return parse_job(read_file(file), file.string());
}

}  // namespace peal
