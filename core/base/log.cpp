#include "core/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "core/base/error.h"

namespace peal::log {
namespace {

struct Sinks {
  std::mutex mutex;
  std::shared_ptr<spdlog::logger> logger;
  int rank = -1;
};

Sinks& sinks() {
  static Sinks instance;
  return instance;
}

std::atomic<std::int64_t> current_step{-1};

std::shared_ptr<spdlog::logger> make_logger(std::vector<spdlog::sink_ptr> list) {
  auto logger = std::make_shared<spdlog::logger>("peal", list.begin(), list.end());
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %v");
  logger->flush_on(spdlog::level::info);
  return logger;
}

void write(spdlog::level::level_enum level, const std::string& message) {
  Sinks& s = sinks();
  const std::lock_guard lock(s.mutex);
  if (!s.logger) {
    s.logger = make_logger({std::make_shared<spdlog::sinks::stderr_sink_mt>()});
  }
  std::string prefix = s.rank >= 0 ? cat("rank ", s.rank) : "peal";
  const std::int64_t step = current_step.load(std::memory_order_relaxed);
  if (step >= 0) prefix += cat(" step ", step);
  s.logger->log(level, "{}: {}", prefix, message);
}

}  // namespace

void start(int rank, const std::filesystem::path& file, bool echo) {
  Sinks& s = sinks();
  const std::lock_guard lock(s.mutex);
  auto console = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  console->set_level(echo && rank == 0 ? spdlog::level::info : spdlog::level::warn);
  try {
    auto to_file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string());
    s.logger = make_logger({console, to_file});
  } catch (const spdlog::spdlog_ex& error) {
    fail_input(file.string(), "cannot open the log file: ", error.what());
  }
  s.rank = rank;
}

void stop() {
  Sinks& s = sinks();
  const std::lock_guard lock(s.mutex);
  if (s.logger) s.logger->flush();
  s.logger.reset();
}

void set_step(std::int64_t step) {
  current_step.store(step, std::memory_order_relaxed);
}

void info(const std::string& message) {
  write(spdlog::level::info, message);
}
void warn(const std::string& message) {
  write(spdlog::level::warn, message);
}
void error(const std::string& message) {
  write(spdlog::level::err, message);
}

}  // namespace peal::log
