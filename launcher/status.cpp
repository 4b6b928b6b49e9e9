#include "launcher/status.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/file.h"

namespace peal {
namespace {

using OrderedJson = nlohmann::ordered_json;

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// JSON has no NaN.
double or_none(double value) {
  return std::isfinite(value) ? value : -1;
}

RunStatus parse(const std::filesystem::path& path) {
  return parse_status(read_file(path), path.string());
}

// Whether some process holds the lock that a run has on its directory. Where the file system knows
// no locks, a run that wrote within a minute counts as alive.
bool is_held(const std::filesystem::path& run_directory, double updated) {
  const int file = ::open((run_directory / ".lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool taken = ::flock(file, LOCK_SH | LOCK_NB) == 0;
  const int error = errno;
  ::close(file);
  if (taken) return false;
  return error == EWOULDBLOCK || now() - updated < 60;
}

}  // namespace

RunStatus parse_status(const std::string& text, const std::string& where) {
  try {
    const OrderedJson json = OrderedJson::parse(text);
    RunStatus status;
    json.at("state").get_to(status.state);
    json.at("error").get_to(status.error);
    json.at("exit_code").get_to(status.exit_code);
    json.at("step").get_to(status.step);
    json.at("steps").get_to(status.steps);
    json.at("epoch").get_to(status.epoch);
    json.at("epochs").get_to(status.epochs);
    json.at("loss").get_to(status.loss);
    json.at("samples_per_second").get_to(status.samples_per_second);
    json.at("seconds_left").get_to(status.seconds_left);
    json.at("ranks").get_to(status.ranks);
    json.at("hosts").get_to(status.hosts);
    json.at("restarts").get_to(status.restarts);
    json.at("slurm_job").get_to(status.slurm_job);
    json.at("started").get_to(status.started);
    json.at("updated").get_to(status.updated);
    status.left_out = json.value("left_out", status.left_out);
    status.memory_every = json.value("memory_every", status.memory_every);
    status.first_step = json.value("first_step", status.first_step);
    status.done_again = json.value("done_again", status.done_again);
    status.compute_seconds = json.value("compute_seconds", status.compute_seconds);
    if (const auto slow = json.find("straggler"); slow != json.end() && slow->is_object()) {
      slow->at("rank").get_to(status.straggler.rank);
      slow->at("host").get_to(status.straggler.host);
      slow->at("factor").get_to(status.straggler.factor);
    }
    return status;
  } catch (const OrderedJson::exception& error) {
    fail_input(where, "is no status of a run: ", error.what());
  }
}

std::string status_json(const RunStatus& status) {
  const SlowRank& slow = status.straggler;
  OrderedJson json = {{"state", status.state},
                      {"error", status.error},
                      {"exit_code", status.exit_code},
                      {"step", status.step},
                      {"steps", status.steps},
                      {"epoch", status.epoch},
                      {"epochs", status.epochs},
                      {"loss", status.loss},
                      {"samples_per_second", status.samples_per_second},
                      {"seconds_left", status.seconds_left},
                      {"ranks", status.ranks},
                      {"hosts", status.hosts},
                      {"restarts", status.restarts},
                      {"slurm_job", status.slurm_job},
                      {"started", status.started},
                      {"updated", status.updated},
                      {"left_out", status.left_out},
                      {"memory_every", status.memory_every},
                      {"first_step", status.first_step},
                      {"done_again", status.done_again},
                      {"compute_seconds", status.compute_seconds},
                      {"straggler", nullptr}};
  if (slow.rank >= 0) {
    json["straggler"] = {{"rank", slow.rank}, {"host", slow.host}, {"factor", slow.factor}};
  }
  // A message may hold bytes that are no UTF-8.
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

StatusFile::StatusFile(const std::filesystem::path& run_directory, RunStatus first)
    : path_(run_directory / "status.json"), status_(std::move(first)) {
  if (std::filesystem::exists(path_)) {
    try {
      status_.restarts = parse(path_).restarts + 1;
    } catch (const Error&) {  // written by something else: this start counts as the first
    }
  }
  if (const char* job = std::getenv("SLURM_JOB_ID")) status_.slurm_job = job;
  status_.started = now();
  if (!write()) fail_input(path_.string(), "cannot be written: ", std::strerror(errno));
}

void StatusFile::step(const ProgressLine& line) {
  status_.step = line.step;
  status_.steps = line.steps;
  status_.epoch = line.epoch;
  status_.epochs = line.epochs;
  status_.loss = or_none(line.loss);
  status_.samples_per_second = or_none(line.samples_per_second);
  status_.seconds_left = or_none(line.seconds_left);
  const bool first = !stepped_;
  stepped_ = true;
  if (first || std::chrono::steady_clock::now() - written_ >= std::chrono::seconds(1)) write();
}

void StatusFile::times(const std::vector<double>& compute_seconds, const SlowRank& straggler) {
  status_.compute_seconds = compute_seconds;
  const bool other = straggler.rank != status_.straggler.rank;
  status_.straggler = straggler;
  if (other) write();
}

void StatusFile::end(const std::string& state) {
  status_.state = state;
  write();
}

void StatusFile::fail(const std::string& error, int exit_code) {
  try {
    if (parse(path_).started != status_.started) return;
  } catch (const Error&) {  // gone, or half of one: nobody else's
  }
  status_.error = error;
  status_.exit_code = exit_code;
  end("failed");
}

bool StatusFile::write() {
  written_ = std::chrono::steady_clock::now();
  status_.updated = now();
  return write_status(path_.parent_path(), status_);
}

// Not synced: after a power cut nobody asks what the run was doing.
bool write_status(const std::filesystem::path& run_directory, const RunStatus& status) {
  const std::filesystem::path path = run_directory / "status.json";
  const std::string temporary = path.string() + ".tmp";
  std::ofstream file(temporary, std::ios::trunc);
  file << status_json(status);
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, path, error);
  return file && !error;
}

RunStatus read_status(const std::filesystem::path& run_directory) {
  const std::filesystem::path path = run_directory / "status.json";
  if (!std::filesystem::exists(path)) {
    fail_input(run_directory.string(), "holds no run (no status.json)");
  }
  RunStatus status = parse(path);
  const auto lives = [&] { return status.state == "running" || status.state == "waiting"; };
  if (!lives() || is_held(run_directory, status.updated)) return status;
  status = parse(path);  // it may have ended meanwhile
  if (lives()) status.state = "dead";
  return status;
}

}  // namespace peal
