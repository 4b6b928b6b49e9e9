#include "launcher/flight_files.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kLatest = std::int64_t{1} << 53;  // of times and counts

// One line of a file, a JSON object whose fields are asked for by name.
class Line {
 public:
  Line(std::string_view text, std::string path, std::size_t number)
      : path_(std::move(path)),
        number_(number),
        object_(Json::parse(text, nullptr, /*allow_exceptions=*/false)) {
    if (!object_.is_object()) fail("is no JSON object");
  }

  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high = kLatest) const {
    const auto found = object_.find(key);
    if (found == object_.end()) fail("has no ", key);
    // A number above the signed range is held unsigned.
    const bool fits = found->is_number_integer() &&
                      (!found->is_number_unsigned() || found->get<std::uint64_t>() <= kLatest);
    const std::int64_t value = fits ? found->get<std::int64_t>() : 0;
    if (!fits || value < low || value > high) {
      fail(key, " is ", found->dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 40),
           "; a whole number from ", low, " to ", high, " is needed");
    }
    return value;
  }

  // Without control characters: a name may hold any, and a terminal would obey them.
  std::string text(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end() || !found->is_string()) fail("has no text ", key);
    auto value = found->get<std::string>();
    std::replace_if(
        value.begin(), value.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
    return value;
  }

  double seconds(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end() || !found->is_number()) fail("has no number ", key);
    return found->get<double>();
  }

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    fail_input(path_, "line ", number_, " ", parts...);
  }

 private:
  std::string path_;
  std::size_t number_;
  Json object_;
};

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) break;  // cut short; the checksum is then missing too
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  return lines;
}

// The last line vouches for all before it.
void check_end(std::string_view text, const std::vector<std::string_view>& lines,
               const std::string& path) {
  if (lines.size() < 2 || !lines.back().starts_with("{\"calls\":")) {
    fail_input(path, "is cut short, or no flight record");
  }
  const Line end(lines.back(), path, lines.size());
  const auto covered = static_cast<std::size_t>(lines.back().data() - text.data());
  if (end.text("xxh64") != hex(xxh64(text.data(), covered))) {
    fail_input(path, "is damaged: its checksum does not match");
  }
  if (covered + lines.back().size() + 1 != text.size()) end.fail("is not the end of the file");
  const auto calls = static_cast<std::int64_t>(lines.size()) - 2;
  end.integer("calls", calls, calls);
}

FlightFile parse_head(const Line& line, const std::string& path) {
  line.integer("peal_flight", 2, 2);
  FlightFile file;
  file.path = path;
  file.ranks = static_cast<int>(line.integer("ranks", 1, 1 << 24));
  file.rank = static_cast<int>(line.integer("rank", 0, file.ranks - 1));
  file.rank_name = line.text("name");
  file.why = line.text("why");
  file.failure = line.text("failure");
  file.elsewhere = line.integer("elsewhere", 0, 1) == 1;
  file.step = line.integer("step", -1);
  file.deadline_seconds = line.seconds("deadline_seconds");
  file.made = static_cast<std::uint64_t>(line.integer("made", 0));
  file.finished =
      static_cast<std::uint64_t>(line.integer("finished", 0, static_cast<std::int64_t>(file.made)));
  file.written_us = line.integer("written_us", 0);
  return file;
}

FlightFileCall::State parse_state(const Line& line) {
  using State = FlightFileCall::State;
  const std::string name = line.text("state");
  if (name == "queued") return State::queued;
  if (name == "running") return State::running;
  if (name == "finished") return State::finished;
  if (name == "failed") return State::failed;
  line.fail("has the state \"", name, "\"; known: queued, running, finished, failed");
}

// What the next call of a kind must be numbered. `whole`: the file holds calls from the first on.
class Numbers {
 public:
  explicit Numbers(bool whole) : whole_(whole) {}

  // `place`: 0 of calls that all ranks make, otherwise the peer and 1.
  std::uint64_t take(const Line& line, int place) {
    std::uint64_t& last = last_[place];
    const auto next = static_cast<std::int64_t>(last) + 1;
    const std::int64_t number =
        last == 0 && !whole_ ? line.integer("call", 1) : line.integer("call", next, next);
    return last = static_cast<std::uint64_t>(number);
  }

 private:
  bool whole_;
  std::map<int, std::uint64_t> last_;
};

FlightFileCall parse_call(const Line& line, const FlightFile& file, Numbers& numbers) {
  using State = FlightFileCall::State;
  FlightFileCall call;
  call.kind = line.text("kind");
  if (call.kind == "send" || call.kind == "recv") {
    call.peer = static_cast<int>(line.integer("peer", 0, file.ranks - 1));
    if (call.peer == file.rank) line.fail("peer is ", call.peer, ", the rank itself");
  }
  call.sequence = numbers.take(line, call.peer + 1);
  call.state = parse_state(line);
  call.name = line.text("name");
  call.dtype = line.text("dtype");
  call.what = line.text("what");
  call.digest = line.text("digest");
  call.elements = line.integer("elements", 0);
  call.bytes = line.integer("bytes", 0);
  call.step = line.integer("step", -1);
  call.queued_us = line.integer("queued_us", 0);
  if (call.state == State::queued) return call;
  call.started_us = line.integer("started_us", call.queued_us);
  if (call.state != State::running) call.ended_us = line.integer("ended_us", call.started_us);
  return call;
}

std::optional<int> rank_in_name(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  int rank = -1, end = 0;
  if (std::sscanf(name.c_str(), "flight-rank-%7d.jsonl%n", &rank, &end) != 1) return std::nullopt;
  if (end != static_cast<int>(name.size()) || rank < 0) return std::nullopt;
  return rank;
}

std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    if (rank_in_name(entry.path())) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end(),
            [](const auto& a, const auto& b) { return *rank_in_name(a) < *rank_in_name(b); });
  return paths;
}

}  // namespace

const FlightFileCall* FlightFile::call(std::uint64_t sequence) const {
  if (of_all.empty()) return nullptr;
  const std::uint64_t first = calls[of_all[0]].sequence;
  if (sequence < first || sequence - first >= of_all.size()) return nullptr;
  return &calls[of_all[sequence - first]];
}

const FlightFileCall* FlightFile::call_with(int other, std::uint64_t sequence) const {
  const auto found = std::find_if(calls.begin(), calls.end(), [&](const FlightFileCall& call) {
    return call.peer == other && call.sequence == sequence;
  });
  return found != calls.end() ? &*found : nullptr;
}

const FlightFileCall* FlightFile::open_call() const {
  const std::uint64_t before = made - calls.size();  // calls that the file no longer holds
  if (finished < before || finished == made) return nullptr;
  const FlightFileCall& next = calls[finished - before];
  return next.open() ? &next : nullptr;
}

const FlightFileCall* FlightFile::last_finished() const {
  const std::uint64_t before = made - calls.size();
  return finished > before ? &calls[finished - before - 1] : nullptr;
}

bool FlightFile::has_finished(std::uint64_t sequence) const {
  if (const FlightFileCall* mine = call(sequence)) {
    return mine->state == FlightFileCall::State::finished;
  }
  return !of_all.empty() && sequence < calls[of_all[0]].sequence;
}

FlightFile parse_flight_file(std::string_view text, const std::string& path) {
  const std::vector<std::string_view> lines = lines_of(text);
  check_end(text, lines, path);
  FlightFile file = parse_head(Line(lines[0], path, 1), path);
  const std::size_t calls = lines.size() - 2;
  if (calls > file.made) fail_input(path, "holds ", calls, " calls of ", file.made);
  file.calls.reserve(calls);
  Numbers numbers(/*whole=*/calls == file.made);
  for (std::size_t i = 0; i < calls; ++i) {
    file.calls.push_back(parse_call(Line(lines[i + 1], path, i + 2), file, numbers));
    if (!file.calls.back().is_pair()) file.of_all.push_back(i);
  }
  return file;
}

std::vector<FlightFile> read_flight_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths = files_in(folder);
  if (paths.empty()) paths = files_in(folder / "flight");
  if (paths.empty()) {
    fail_input(folder.string(),
               "holds no flight-rank-*.jsonl; they are written when a job fails, and by a rank "
               "that gets SIGUSR2");
  }
  std::vector<FlightFile> files;
  for (const std::filesystem::path& path : paths) {
    files.push_back(parse_flight_file(read_file(path), path.string()));
    const FlightFile& file = files.back();
    if (file.rank != *rank_in_name(path)) fail_input(file.path, "is of rank ", file.rank);
    if (file.ranks != files[0].ranks) {
      fail_input(file.path, "is of a job of ", file.ranks, " ranks, ", files[0].path, " of one of ",
                 files[0].ranks, "; the files of one job are needed");
    }
  }
  return files;
}

}  // namespace peal
