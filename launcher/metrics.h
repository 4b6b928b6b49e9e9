// What a run reports: metrics.jsonl and TensorBoard events in its directory. Rank 0 only.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "launcher/tensorboard.h"

namespace peal {

// The lines of a metrics.jsonl that hold after `step`; a last one cut short by a kill does not.
std::string metrics_up_to(const std::string& text, std::int64_t step);

class Metrics {
 public:
  // Keeps the lines of metrics.jsonl up to `start_step`; what a killed run wrote beyond is
  // dropped, since those steps run again.
  Metrics(const std::filesystem::path& directory, std::int64_t start_step, bool tensorboard);

  // One JSON line, {"step": ..., "epoch": ..., name: value, ...}, and a scalar for each value.
  void write(std::int64_t step, std::int64_t epoch, const std::map<std::string, double>& values);
  TensorBoardWriter* tensorboard() { return tensorboard_.get(); }

 private:
  std::filesystem::path path_;
  std::ofstream file_;
  std::unique_ptr<TensorBoardWriter> tensorboard_;
};

}  // namespace peal
