#include "launcher/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/config/job.h"

namespace peal {
namespace {

constexpr const char* kNumberFile = ".run";

}  // namespace

RunDirectory::RunDirectory(std::filesystem::path path, bool locked) : path_(std::move(path)) {
  make_folders(path_);
  if (locked) return;
  const std::filesystem::path file = path_ / ".lock";
  lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) fail_input(file.string(), "cannot create: ", std::strerror(errno));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  // A file system without locks (ENOLCK, ENOTSUP) trains unlocked.
  while (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    if (std::chrono::steady_clock::now() > deadline) {
      ::close(lock_);
      fail_input(path_.string(),
                 "another run is at work in this directory; wait for its end or "
                 "choose another run.directory");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

RunDirectory::~RunDirectory() {
  if (lock_ >= 0) ::close(lock_);
}

std::uint64_t RunDirectory::number_in(const std::filesystem::path& path) {
  std::ifstream file(path / kNumberFile);
  std::uint64_t number = 0;
  file >> std::hex >> number;
  return file ? number : 0;
}

std::uint64_t RunDirectory::number() const {
  if (const std::uint64_t known = number_in(path_)) return known;
  std::random_device random;
  const std::uint64_t fresh = (std::uint64_t{random()} << 32 | random()) | 1;
  write_file_atomically(path_ / kNumberFile, hex(fresh) + "\n");
  return fresh;
}

void RunDirectory::clear() {
  std::error_code ignored;
  std::filesystem::remove_all(checkpoints(), ignored);
  std::filesystem::remove_all(path_ / "logs", ignored);
  std::filesystem::remove(path_ / "metrics.jsonl", ignored);
  std::filesystem::remove(path_ / "job.textproto", ignored);
  std::filesystem::remove(path_ / "status.json", ignored);
  std::filesystem::remove(path_ / kNumberFile, ignored);
  std::vector<std::filesystem::path> events;
  for (const auto& entry : std::filesystem::directory_iterator(path_, ignored)) {
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) {
      events.push_back(entry.path());
    }
  }
  for (const auto& event : events) std::filesystem::remove(event, ignored);
}

std::optional<Checkpoint> RunDirectory::newest() const {
  return Checkpoint::open_newest(path_, [](const std::string& text) { log::warn(text); });
}

void RunDirectory::write_job(const JobSpec& job) const {
  write_file_atomically(path_ / "job.textproto", effective_job(job));
}

void adopt_checkpoint(const Checkpoint& checkpoint, JobSpec& job) {
  const std::string where = checkpoint.path().string();
  const JobSpec saved = parse_job(checkpoint.info().job, where);
  if (job.parallel().virtual_ranks() == 0) {
    job.mutable_parallel()->set_virtual_ranks(saved.parallel().virtual_ranks());
  }
  if (job_hash(job) == checkpoint.info().job_hash) return;
  std::istringstream ours(defining_job(job)), theirs(defining_job(saved));
  std::string a, b;
  while (std::getline(ours, a) && std::getline(theirs, b) && a == b) {
  }
  const auto shown = [](const std::string& line) {
    return line.substr(std::min(line.find_first_not_of(' '), line.size()));
  };
  fail_input(where, "was made by another job: it has \"", shown(b), "\" where this job has \"",
             shown(a), "\"; start over with --fresh or choose another run.directory");
}

}  // namespace peal
