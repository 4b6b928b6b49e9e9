#include "comm/flight.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "comm/flight_signal.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"

namespace peal {
namespace {

constexpr std::string_view kPrefix = "flight-rank-", kSuffix = ".jsonl";

std::filesystem::path file_of(const std::filesystem::path& directory, int rank) {
  return directory / cat(kPrefix, rank, kSuffix);
}

// The files of this rank, and of ranks that only an earlier, larger run had; also what a rank that
// was killed had under a temporary name.
void remove_earlier(const std::filesystem::path& directory, int rank, int ranks) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool file = name.ends_with(kSuffix) || name.ends_with(cat(kSuffix, ".tmp"));
    if (!name.starts_with(kPrefix) || !file) continue;
    int owner = -1;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), owner);
    if (owner >= 0 && owner % ranks == rank) std::filesystem::remove(entry.path(), ignored);
  }
}

// Bytes of the valid UTF-8 character that `text` begins with; 0: it begins with none. (RFC 3629)
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead < 0xC2   ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF5 ? 4
                                           : 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return length > 1 && (byte(1) < low || byte(1) > high) ? 0 : length;
}

// A JSON string. A name may hold any bytes, and may have been cut inside a character.
std::string json_text(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      out += '?';
    } else if (first == '"' || first == '\\') {
      out += {'\\', text[0]};
    } else if (first < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", first);
      out += escape;
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out + '"';
}

std::string_view name_of(FlightState state) {
  constexpr std::string_view names[] = {"queued", "running", "finished", "failed"};
  return names[static_cast<int>(state)];
}

// Ticks as microseconds of the wall clock, which is asked once a file.
class WallClock {
 public:
  explicit WallClock(const TickClock& ticks)
      : seconds_per_tick_(ticks.seconds_per_tick()),
        tick_(ticks.now()),
        wall_(std::chrono::system_clock::now()) {}

  std::int64_t microseconds(std::uint64_t tick) const {
    const double ago = static_cast<double>(static_cast<std::int64_t>(tick_ - tick));
    return now() - static_cast<std::int64_t>(ago * seconds_per_tick_ * 1e6);
  }
  std::int64_t now() const {
    const auto since = wall_.time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(since).count();
  }

 private:
  double seconds_per_tick_;
  std::uint64_t tick_;
  std::chrono::system_clock::time_point wall_;
};

void append_call(std::string& out, const FlightCall& call, const WallClock& clock) {
  const CallRecord& r = call.record;
  const bool began = call.state != FlightState::queued;
  const bool over = began && call.state != FlightState::running;
  // Never back in time, though another core's counter may lag by a few ticks.
  const std::int64_t queued = clock.microseconds(call.queued);
  const std::int64_t started = std::max(queued, clock.microseconds(call.started));
  const std::int64_t ended = std::max(started, clock.microseconds(call.ended));
  const auto bytes = r.count * static_cast<std::int64_t>(size_of(r.dtype));
  const bool pair = r.kind == CallKind::send || r.kind == CallKind::recv;
  const std::string peer = pair ? cat(",\"peer\":", r.parameter) : "";
  out += cat("{\"call\":", r.sequence, peer, ",\"state\":\"", name_of(call.state), "\",\"kind\":\"",
             name_of(r.kind), "\",\"name\":", json_text(r.name.data()), ",\"dtype\":\"",
             name_of(r.dtype), "\",\"elements\":", r.count, ",\"bytes\":", bytes,
             ",\"what\":", json_text(long_name(r)), ",\"digest\":\"", hex(r.digest),
             "\",\"step\":", call.step, ",\"queued_us\":", queued);
  if (began) out += cat(",\"started_us\":", started);
  if (over) out += cat(",\"ended_us\":", ended);
  out += "}\n";
}

}  // namespace

std::size_t FlightRing::copy_to(std::vector<FlightCall>& calls) const {
  const std::size_t count = std::min<std::uint64_t>(entries_, kCalls);
  for (std::size_t i = 0; i < count; ++i) calls[i] = calls_[(entries_ - count + 1 + i) % kCalls];
  return count;
}

std::size_t FlightRing::copy_ended(std::uint64_t& seen, std::span<FlightCall> into) const {
  const std::uint64_t oldest = entries_ - std::min<std::uint64_t>(entries_, kCalls);
  std::size_t count = 0;
  for (std::uint64_t entry = std::max(seen, oldest) + 1; entry <= entries_ && count < into.size();
       ++entry) {
    const FlightCall& call = calls_[entry % kCalls];
    if (call.state == FlightState::queued || call.state == FlightState::running) break;
    into[count++] = call;
    seen = entry;
  }
  return count;
}

FlightRecorder::FlightRecorder(const Watch& watch, std::mutex& queue_mutex)
    : watch_(watch), queue_mutex_(queue_mutex) {}

FlightRecorder::~FlightRecorder() {
  write_on_signal(this, false);
}

void FlightRecorder::set_directory(const std::filesystem::path& directory) {
  {
    const std::lock_guard lock(file_mutex_);
    directory_ = directory;
    if (!directory.empty()) remove_earlier(directory, watch_.rank, watch_.ranks());
  }
  write_on_signal(this, !directory.empty());
}

void FlightRecorder::failed(const std::string& cause, bool elsewhere) {
  const std::lock_guard lock(file_mutex_);
  if (!failure_.empty()) return;
  failure_ = cause;
  elsewhere_ = elsewhere;
  write_file("failure");
}

void FlightRecorder::write(std::string_view why) {
  const std::lock_guard lock(file_mutex_);
  write_file(why);
}

void FlightRecorder::write_file(std::string_view why) {
  if (directory_.empty()) return;
  try {
    make_folders(directory_);
    write_file_atomically(file_of(directory_, watch_.rank), text(why));
  } catch (const std::exception& error) {
    watch_.warn(cat("no flight record: ", error.what()));
  }
}

std::string FlightRecorder::text(std::string_view why) {
  std::vector<FlightCall> calls(FlightRing::kCalls);
  std::uint64_t entries = 0, ended = 0;
  WallClock clock(ring_.clock());
  {
    const std::lock_guard lock(queue_mutex_);
    calls.resize(ring_.copy_to(calls));
    entries = ring_.entries();
    ended = ring_.ended();
    clock = WallClock(ring_.clock());
  }
  constexpr double kLongest = 1e9;  // JSON has no infinity
  const auto rank = static_cast<std::size_t>(watch_.rank);
  std::string out =
      cat("{\"peal_flight\":2,\"rank\":", watch_.rank, ",\"ranks\":", watch_.ranks(),
          ",\"name\":", json_text(watch_.names[rank]), ",\"process\":", ::getpid(),
          ",\"why\":", json_text(why), ",\"failure\":", json_text(failure_),
          ",\"elsewhere\":", elsewhere_ ? 1 : 0,
          ",\"step\":", watch_.step.load(std::memory_order_relaxed),
          ",\"deadline_seconds\":", std::min(watch_.deadline.load(), kLongest),
          ",\"made\":", entries, ",\"finished\":", ended, ",\"written_us\":", clock.now(), "}\n");
  for (const FlightCall& call : calls) append_call(out, call, clock);
  const std::string sum = hex(xxh64(out.data(), out.size()));
  return out += cat("{\"calls\":", calls.size(), ",\"xxh64\":\"", sum, "\"}\n");
}

}  // namespace peal
