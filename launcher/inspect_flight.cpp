// `peal inspect flight DIR`.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/base/text.h"
#include "launcher/cli.h"
#include "launcher/flight_verdict.h"

namespace peal {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string_view name_of_state(FlightFileCall::State state) {
  constexpr std::string_view names[] = {"queued", "running", "finished", "failed"};
  return names[static_cast<int>(state)];
}

// Seconds that a call took, or has taken so far; -1: it has not begun.
double seconds_in(const FlightFileCall& call, const FlightFile& file) {
  if (call.state == FlightFileCall::State::queued) return -1;
  const std::int64_t end = call.ended_us != 0 ? call.ended_us : file.written_us;
  return static_cast<double>(end - call.started_us) * 1e-6;
}

// The newest calls of a file, oldest first.
std::span<const FlightFileCall> newest(const FlightFile& file, int count) {
  const std::size_t shown = std::min(static_cast<std::size_t>(count), file.calls.size());
  return std::span(file.calls).last(shown);
}

void print_rank(const FlightFile& file, int calls) {
  const std::string step = file.step < 0 ? "before step 1" : cat("step ", file.step);
  std::printf("\n%s: %s, %llu calls made, %llu finished; written %s on %s\n",
              file.rank_name.c_str(), step.c_str(), static_cast<unsigned long long>(file.made),
              static_cast<unsigned long long>(file.finished), wall_time(file.written_us).c_str(),
              file.why.c_str());
  for (const FlightFileCall& call : newest(file, calls)) {
    const bool begun = call.state != FlightFileCall::State::queued;
    std::string took = "-";
    if (begun) {
      char text[32];
      std::snprintf(text, sizeof text, "%.3f ms", seconds_in(call, file) * 1e3);
      took = text;
    }
    // 17, or 3:2 for the second call with rank 3
    const std::string number =
        call.is_pair() ? cat(call.peer, ":", call.sequence) : std::to_string(call.sequence);
    std::printf("  %8s  %-8s  %s  %14s  %s\n", number.c_str(),
                std::string(name_of_state(call.state)).c_str(),
                wall_time(begun ? call.started_us : call.queued_us).substr(11, 12).c_str(),
                took.c_str(), call.what.c_str());
  }
}

void print_text(const FlightVerdict& verdict, const std::vector<FlightFile>& files, int calls) {
  std::printf("verdict: %s\n", verdict.sentence.c_str());
  for (const std::string& line : verdict.details) std::printf("  %s\n", line.c_str());
  for (const std::string& cause : verdict.causes) std::printf("  cause: %s\n", cause.c_str());
  if (calls == 0) return;
  for (const FlightFile& file : files) print_rank(file, calls);
}

OrderedJson json_of(const FlightFileCall& call, const FlightFile& file) {
  OrderedJson out{{"call", call.sequence}, {"state", name_of_state(call.state)},
                  {"kind", call.kind},     {"name", call.name},
                  {"dtype", call.dtype},   {"elements", call.elements},
                  {"bytes", call.bytes},   {"what", call.what},
                  {"step", call.step},     {"queued_us", call.queued_us}};
  if (call.is_pair()) out["peer"] = call.peer;
  if (call.state == FlightFileCall::State::queued) return out;
  out["started_us"] = call.started_us;
  if (call.ended_us != 0) out["ended_us"] = call.ended_us;
  out["seconds"] = seconds_in(call, file);
  return out;
}

void print_json(const FlightVerdict& verdict, const std::vector<FlightFile>& files, int calls) {
  OrderedJson out{{"verdict", name_of(verdict.kind)},
                  {"sentence", verdict.sentence},
                  {"details", verdict.details},
                  {"causes", verdict.causes},
                  {"late", verdict.late},
                  {"missing", verdict.missing},
                  {"waiting", verdict.waiting},
                  {"ahead", verdict.ahead}};
  if (verdict.call != 0) {
    out["call"] = verdict.call;
    out["what"] = verdict.what;
    if (!verdict.pair.empty()) out["pair"] = verdict.pair;
  }
  if (verdict.since_us != 0) {
    out["since_us"] = verdict.since_us;
    out["waited_seconds"] = verdict.waited_seconds;
  }
  out["ranks"] = OrderedJson::array();
  for (const FlightFile& file : files) {
    OrderedJson rank{{"rank", file.rank},
                     {"name", file.rank_name},
                     {"step", file.step},
                     {"made", file.made},
                     {"finished", file.finished},
                     {"written_us", file.written_us},
                     {"why", file.why},
                     {"failure", file.failure},
                     {"elsewhere", file.elsewhere},
                     {"calls", OrderedJson::array()}};
    for (const FlightFileCall& call : newest(file, calls)) {
      rank["calls"].push_back(json_of(call, file));
    }
    out["ranks"].push_back(std::move(rank));
  }
  std::puts(out.dump(2, ' ', false, OrderedJson::error_handler_t::replace).c_str());
}

}  // namespace

void add_inspect_flight(CLI::App& inspect) {
  struct Arguments {
    std::string directory;
    int calls = 4;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = inspect.add_subcommand(
      "flight", "merge the flight records of all ranks: who is late, in what call, since when");
  command->add_option("directory", arguments->directory, "run directory, or folder of the records")
      ->required();
  command->add_option("--calls", arguments->calls, "newest calls shown of each rank")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "print one JSON object");
  command->footer(
      "Ranks write their records when a job fails, and on SIGUSR2 (mpirun passes it on to them).\n"
      "Examples:\n  peal inspect flight runs/fashion_mnist\n"
      "  kill -USR2 PID_OF_MPIRUN; peal inspect flight runs/fashion_mnist --calls 20");
  command->callback([arguments] {
    const std::vector<FlightFile> files = read_flight_files(arguments->directory);
    const FlightVerdict verdict = judge_flight(files);
    (arguments->json ? print_json : print_text)(verdict, files, arguments->calls);
  });
}

}  // namespace peal
