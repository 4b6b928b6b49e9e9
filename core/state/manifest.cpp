#include "core/state/manifest.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/state/manifest.pb.h"

namespace peal::state {
namespace {

constexpr int kFormat = 1;
constexpr std::size_t kLargestManifest = std::size_t{16} << 20;
constexpr std::string_view kPrefix = "step-";

// A map has no order of its own: ask for one, so that equal checkpoints have equal bytes.
std::string serialize(const CheckpointManifest& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&out);
  }
  return bytes;
}

CheckpointManifest parse(std::string_view bytes, const std::string& where) {
  if (bytes.size() < sizeof(std::uint64_t) || bytes.size() > kLargestManifest) {
    fail_input(where, "is damaged: ", bytes.size(), " bytes are no manifest");
  }
  const std::string_view body = bytes.substr(0, bytes.size() - sizeof(std::uint64_t));
  std::uint64_t expected = 0;
  std::memcpy(&expected, body.data() + body.size(), sizeof expected);
  const std::uint64_t actual = xxh64(body.data(), body.size());
  if (actual != expected) {
    fail_input(where, "is damaged: its checksum is ", hex(actual), ", not ", hex(expected));
  }
  CheckpointManifest message;
  if (!message.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    fail_input(where, "is no manifest of a checkpoint");
  }
  return message;
}

}  // namespace

std::string encode_manifest(const Manifest& manifest) {
  CheckpointManifest message;
  message.set_format(kFormat);
  message.set_step(manifest.info.step);
  message.set_epoch(manifest.info.epoch);
  message.set_job(manifest.info.job);
  message.set_job_hash(manifest.info.job_hash);
  message.set_weights_hash(manifest.weights_hash);
  message.set_peal_version(PEAL_VERSION);
  for (const FileEntry& entry : manifest.files) {
    CheckpointManifest::File& file = *message.add_file();
    file.set_name(entry.name);
    file.set_bytes(entry.bytes);
    file.set_xxh64(entry.xxh64);
  }
  for (const auto& [name, value] : manifest.info.metrics) (*message.mutable_metric())[name] = value;
  std::string bytes = serialize(message);
  const std::uint64_t checksum = xxh64(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof checksum);
  return bytes;
}

Manifest decode_manifest(std::string_view bytes, const std::string& where) {
  const CheckpointManifest message = parse(bytes, where);
  if (message.format() != kFormat) {
    fail_input(where, "has format ", message.format(), "; this program reads ", kFormat);
  }
  Manifest manifest;
  manifest.info.step = message.step();
  manifest.info.epoch = message.epoch();
  manifest.info.job = message.job();
  manifest.info.job_hash = message.job_hash();
  manifest.info.metrics.insert(message.metric().begin(), message.metric().end());
  manifest.weights_hash = message.weights_hash();
  for (const auto& file : message.file()) {
    manifest.files.push_back({file.name(), file.bytes(), file.xxh64()});
  }
  const char* const names[] = {kWeightsFile, kOptimizerFile, kCompressionFile};
  const auto listed = [](const FileEntry& entry, const char* name) { return entry.name == name; };
  const std::size_t count = manifest.files.size();
  if (count < 2 || count > 3 ||
      !std::equal(manifest.files.begin(), manifest.files.end(), names, listed)) {
    fail_input(where, "does not list ", kWeightsFile, ", ", kOptimizerFile, " and, if anything, ",
               kCompressionFile);
  }
  return manifest;
}

Manifest read_manifest(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifestFile;
  const MappedFile file(path);
  return decode_manifest({reinterpret_cast<const char*>(file.data()), file.size()}, path.string());
}

std::string folder_name(std::int64_t step) {
  char text[32];
  std::snprintf(text, sizeof text, "step-%09lld", static_cast<long long>(step));
  return text;
}

std::vector<std::int64_t> list_steps(const std::filesystem::path& directory) {
  std::vector<std::int64_t> steps;
  std::error_code code;
  for (std::filesystem::directory_iterator it(directory, code), end; !code && it != end;
       it.increment(code)) {
    const std::string name = it->path().filename().string();
    if (name.rfind(kPrefix, 0) != 0) continue;
    std::int64_t step = -1;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    if (step < 0 || name != folder_name(step)) continue;
    std::error_code ignored;
    if (std::filesystem::is_directory(it->path(), ignored)) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace peal::state
