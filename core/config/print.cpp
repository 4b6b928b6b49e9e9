// Jobs as text: the effective job, its hash and the help.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/config/fields.h"
#include "core/config/job.h"

namespace peal {
namespace {

using config::Descriptor;
using config::FieldDescriptor;
using config::Message;

// A message that is a choice has no default: nobody chose.
bool is_choice(const Descriptor& message) {
  return message.oneof_decl_count() > 0;
}

// Sets every field to what reading it gives. Fields of a oneof that was not chosen stay out.
void fill_defaults(Message& message) {
  const auto& reflection = *message.GetReflection();
  const Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->is_repeated()) {
      if (field->message_type() == nullptr) continue;
      for (int k = 0; k < reflection.FieldSize(message, field); ++k) {
        fill_defaults(*reflection.MutableRepeatedMessage(&message, field, k));
      }
      continue;
    }
    const bool given = reflection.HasField(message, field);
    if (field->containing_oneof() != nullptr && !given) continue;
    if (field->message_type() != nullptr) {
      if (given || !is_choice(*field->message_type())) {
        fill_defaults(*reflection.MutableMessage(&message, field));
      }
    } else if (!given) {
      // Through text, so that one line serves every type.
      google::protobuf::TextFormat::MergeFromString(
          cat(field->name(), ": ", config::value_text(message, *field)), &message);
    }
  }
}

JobSpec with_defaults(const JobSpec& job) {
  JobSpec full = job;
  // The one choice with a default: without a schedule the rate is as given.
  ScheduleSpec& schedule = *full.mutable_schedule();
  if (schedule.kind_case() == ScheduleSpec::KIND_NOT_SET) schedule.mutable_constant();
  fill_defaults(full);
  return full;
}

void print(const Message& message, int depth, std::string& out);

void print_group(const std::string& name, const Message& message, int depth, std::string& out) {
  const std::string indent(static_cast<std::size_t>(depth) * 2, ' ');
  std::string inner;
  print(message, depth + 1, inner);
  out += indent + name + (inner.empty() ? " {}\n" : " {\n" + inner + indent + "}\n");
}

void print_list(const Message& message, const FieldDescriptor& field, int depth, std::string& out) {
  const auto& reflection = *message.GetReflection();
  const int size = reflection.FieldSize(message, &field);
  if (field.message_type() != nullptr) {
    for (int k = 0; k < size; ++k) {
      print_group(field.name(), reflection.GetRepeatedMessage(message, &field, k), depth, out);
    }
    return;
  }
  std::vector<std::string> values;
  for (int k = 0; k < size; ++k) values.push_back(config::value_text(message, field, k));
  if (values.empty()) return;
  out += std::string(static_cast<std::size_t>(depth) * 2, ' ');
  out += cat(field.name(), ": [", join(values), "]\n");
}

// Every field that is set, in the order of the schema. Not the library's printer: its floats and
// spacing are not promised to stay.
void print(const Message& message, int depth, std::string& out) {
  const auto& reflection = *message.GetReflection();
  const Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_repeated()) {
      print_list(message, field, depth, out);
    } else if (!reflection.HasField(message, &field)) {
      continue;
    } else if (field.message_type() != nullptr) {
      print_group(field.name(), reflection.GetMessage(message, &field), depth, out);
    } else {
      out += std::string(static_cast<std::size_t>(depth) * 2, ' ');
      out += cat(field.name(), ": ", config::value_text(message, field), "\n");
    }
  }
}

bool schedule_needs_length(const ScheduleSpec& schedule) {
  return schedule.has_cosine() || schedule.has_linear();
}

void help_for(const Descriptor& message, const std::string& prefix, std::string& out) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const std::string path = prefix + field.name() + (field.is_repeated() ? "[]" : "");
    out += path + "\n  " + config::type_text(field);
    if (field.containing_oneof() != nullptr) out += ", one choice of its group";
    if (field.message_type() == nullptr && !field.is_repeated()) {
      out += ", default " + config::default_text(field);
    }
    if (field.enum_type() != nullptr) out += ", one of " + join(config::enum_names(field));
    const std::string& range = field.options().GetExtension(peal::limits);
    if (!range.empty()) out += ", range " + range;
    out += "\n  " + field.options().GetExtension(peal::help) + "\n";
    if (field.message_type() != nullptr) help_for(*field.message_type(), path + ".", out);
  }
}

// Leaves where the shards come from, not how.
void clear_way(SourceSpec& source) {
  if (!source.has_shards()) return;
  ShardsSpec from;
  if (source.shards().has_directory()) from.set_directory(source.shards().directory());
  if (source.shards().has_url()) from.set_url(source.shards().url());
  *source.mutable_shards() = from;
}

}  // namespace

std::string effective_job(const JobSpec& job) {
  std::string out;
  print(with_defaults(job), 0, out);
  return out;
}

std::string effective_source(const SourceSpec& source) {
  SourceSpec full = source;
  fill_defaults(full);
  std::string out;
  print(full, 0, out);
  return out;
}

namespace {

JobSpec what_defines_weights(const JobSpec& job) {
  JobSpec full = with_defaults(job);
  full.clear_name();
  full.clear_run();
  full.clear_checkpoint();
  full.clear_eval();
  full.mutable_model()->clear_weights();
  full.mutable_train()->clear_recompute();
  full.mutable_train()->clear_cuda_graphs();
  full.mutable_train()->clear_algorithms();
  full.mutable_data()->clear_prefetch_batches();
  full.mutable_data()->clear_loader_threads();
  if (full.data().has_train()) clear_way(*full.mutable_data()->mutable_train());
  if (full.data().has_test()) clear_way(*full.mutable_data()->mutable_test());
  ParallelSpec& parallel = *full.mutable_parallel();
  parallel.clear_threads();
  parallel.clear_overlap();
  parallel.clear_start_deadline_seconds();
  parallel.clear_deadline_seconds();
  if (parallel.reduction() == ParallelSpec::RANK_INVARIANT) {
    parallel.clear_bucket_size();
    parallel.clear_shard_optimizer();
  }
  if (!schedule_needs_length(full.schedule())) {
    full.mutable_train()->clear_epochs();
    full.mutable_train()->clear_max_steps();
  }
  return full;
}

}  // namespace

std::string defining_job(const JobSpec& job) {
  std::string text;
  print(what_defines_weights(job), 0, text);
  return text;
}

std::uint64_t job_hash(const JobSpec& job) {
  JobSpec full = what_defines_weights(job);
  // So that jobs saved before there was such a field keep their hash.
  if (full.train().algorithms_digest().empty()) full.mutable_train()->clear_algorithms_digest();
  std::string text;
  print(full, 0, text);
  return xxh64(text.data(), text.size());
}

std::string job_help() {
  std::string out;
  help_for(*JobSpec::descriptor(), "", out);
  return out;
}

}  // namespace peal
