// Event files that TensorBoard reads: TFRecord framing around Event messages.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

namespace peal {

class TensorBoardWriter {
 public:
  // Opens <directory>/events.out.tfevents.<start step>.peal anew; a resumed run gets a file of its
  // own whose first event tells TensorBoard to drop what older files say of later steps.
  TensorBoardWriter(const std::filesystem::path& directory, std::int64_t start_step);

  void scalar(const std::string& tag, std::int64_t step, double value);
  void histogram(const std::string& tag, std::int64_t step, std::span<const float> values);
  void flush();

 private:
  void write_event(std::int64_t step, const std::string& payload);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace peal
