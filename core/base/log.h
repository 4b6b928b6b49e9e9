// Log lines that carry time, rank and step. Before log::start() they go to stderr only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace peal::log {

// From now on every line goes to `file` too (kept open, appended). Warnings and errors also go to
// stderr; info lines do on rank 0 when `echo` is set.
void start(int rank, const std::filesystem::path& file, bool echo);
void stop();

void set_step(std::int64_t step);  // -1: before the first step

void info(const std::string& message);
void warn(const std::string& message);
void error(const std::string& message);

}  // namespace peal::log
