#include "launcher/metrics.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"
#include "core/base/file.h"

namespace peal {
namespace {

std::string lines_up_to(const std::filesystem::path& path, std::int64_t step) {
  if (step == 0 || !std::filesystem::exists(path)) return "";
  return metrics_up_to(read_file(path), step);
}

}  // namespace

std::string metrics_up_to(const std::string& text, std::int64_t step) {
  std::string kept;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step")) continue;
    if (json["step"].is_number_integer() && json["step"].get<std::int64_t>() <= step) {
      kept += line + "\n";
    }
  }
  return kept;
}

Metrics::Metrics(const std::filesystem::path& directory, std::int64_t start_step, bool tensorboard)
    : path_(directory / "metrics.jsonl") {
  write_file_atomically(path_, lines_up_to(path_, start_step));
  file_.open(path_, std::ios::app);
  if (!file_) fail_input(path_.string(), "cannot open: ", std::strerror(errno));
  if (tensorboard) tensorboard_ = std::make_unique<TensorBoardWriter>(directory, start_step);
}

void Metrics::write(std::int64_t step, std::int64_t epoch,
                    const std::map<std::string, double>& values) {
  nlohmann::ordered_json line;
  line["step"] = step;
  line["epoch"] = epoch;
  for (const auto& [name, value] : values) line[name] = value;
  file_ << line.dump() << "\n";
  if (!file_.flush()) fail_input(path_.string(), "cannot write: ", std::strerror(errno));
  if (!tensorboard_) return;
  for (const auto& [name, value] : values) tensorboard_->scalar(name, step, value);
  tensorboard_->flush();
}

}  // namespace peal
