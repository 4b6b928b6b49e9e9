#include "launcher/progress.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/base/text.h"

namespace peal {
namespace {

std::string text(const ProgressLine& line) {
  char numbers[160];
  std::snprintf(numbers, sizeof numbers, "epoch %lld/%lld step %lld/%lld loss %.4f",
                static_cast<long long>(line.epoch), static_cast<long long>(line.epochs),
                static_cast<long long>(line.step), static_cast<long long>(line.steps), line.loss);
  std::string out = numbers;
  if (line.accuracy >= 0) {
    std::snprintf(numbers, sizeof numbers, " accuracy %.4f", line.accuracy);
    out += numbers;
  }
  std::snprintf(numbers, sizeof numbers, " %.0f samples/s", line.samples_per_second);
  return out + numbers;
}

std::string bar(const ProgressLine& line) {
  constexpr int kWidth = 24;
  const double share = line.steps > 0 ? static_cast<double>(line.step) / line.steps : 0;
  const int filled = std::clamp(static_cast<int>(share * kWidth), 0, kWidth);
  return "[" + std::string(static_cast<std::size_t>(filled), '#') +
         std::string(static_cast<std::size_t>(kWidth - filled), '.') + "] ";
}

bool somebody_reads() {
  pollfd out{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&out, 1, /*timeout=*/0) == 1 && (out.revents & POLLOUT) != 0;
}

}  // namespace

std::string clock_text(double seconds) {
  const auto total = static_cast<long long>(seconds + 0.5);
  char out[48];
  if (total >= 3600) {
    std::snprintf(out, sizeof out, "%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  } else {
    std::snprintf(out, sizeof out, "%lld:%02lld", total / 60, total % 60);
  }
  return out;
}

Progress::Progress(bool enabled, bool terminal) : enabled_(enabled), terminal_(terminal) {}

Progress::~Progress() {
  clear();
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stdout);
  std::fflush(stdout);
  drawn_ = false;
}

bool Progress::due(const ProgressLine& line, bool log_line) {
  if (!terminal_ && !log_line) return false;
  const auto now = std::chrono::steady_clock::now();
  const auto pause = std::chrono::milliseconds(terminal_ ? 100 : 1000);
  const bool last = line.step == line.steps && !terminal_;
  if (!last && (now - last_ < pause || !somebody_reads())) return false;
  last_ = now;
  return true;
}

void Progress::step(const ProgressLine& line, bool log_line) {
  if (!enabled_ || !due(line, log_line)) return;
  const std::string left =
      line.seconds_left >= 0 ? " left " + clock_text(line.seconds_left) : std::string();
  if (!terminal_) {
    say(text(line) + left);
    return;
  }
  note(bar(line) + text(line) + left);
}

void Progress::note(const std::string& line) {
  if (!enabled_ || !terminal_) return;
  std::fputs(("\r\033[K" + line).c_str(), stdout);
  std::fflush(stdout);
  drawn_ = true;
}

void Progress::say(const std::string& line) {
  if (!enabled_) return;
  clear();
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace peal
