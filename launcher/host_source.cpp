#include "launcher/host_source.h"

#include <signal.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "core/base/error.h"
#include "core/base/file.h"
#include "launcher/slurm.h"

namespace peal {
namespace {

constexpr auto kAskSlurm = std::chrono::seconds(2);

class Hostfile final : public HostSource {
 public:
  Hostfile(std::filesystem::path file, int slots)
      : file_(std::move(file)), slots_(slots), text_(read_file(file_)) {}

  std::string name() const override { return file_.string(); }

  std::optional<std::vector<HostSlots>> newer() override {
    std::string text;
    try {
      text = read_file(file_);
    } catch (const Error& error) {
      if (!std::exchange(missing_, true)) throw;
      return std::nullopt;
    }
    missing_ = false;
    if (text == text_) return std::nullopt;
    text_ = std::move(text);
    return read_hostfile(file_, slots_);
  }

 private:
  std::filesystem::path file_;
  int slots_;
  std::string text_;
  bool missing_ = false;
};

class Allocation final : public HostSource {
 public:
  explicit Allocation(std::vector<HostSlots> hosts)
      : slots_(hosts.at(0).slots), told_(host_list(hosts)) {
    // Signals are the supervisor's: a thread that does not block them would end the process.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::jthread([this](const auto& stop) { ask_on(stop); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  std::string name() const override { return "job " + slurm_job_id() + " of Slurm"; }

  std::optional<std::vector<HostSlots>> newer() override {
    const std::lock_guard lock(mutex_);
    if (!error_.empty()) throw Error(ErrorKind::peer, name(), std::exchange(error_, ""));
    if (found_.empty() || host_list(found_) == told_) return std::nullopt;
    told_ = host_list(found_);
    return found_;
  }

 private:
  void ask_on(const std::stop_token& stop) {
    std::mutex own;
    std::unique_lock lock(own);
    std::string last_error;
    while (!pause_.wait_for(lock, stop, kAskSlurm, [] { return false; }) &&
           !stop.stop_requested()) {
      std::vector<HostSlots> hosts;
      std::string error;
      try {
        hosts = allocated_hosts(slots_);
      } catch (const Error& problem) {
        error = problem.message();
      }
      const std::lock_guard guard(mutex_);
      if (!hosts.empty()) found_ = hosts;
      if (error != last_error) error_ = error;
      last_error = error;
    }
  }

  int slots_;
  std::mutex mutex_;
  std::vector<HostSlots> found_;
  std::string error_, told_;
  std::condition_variable_any pause_;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace

std::unique_ptr<HostSource> make_hostfile_source(const std::filesystem::path& file, int slots) {
  return std::make_unique<Hostfile>(file, slots);
}

std::unique_ptr<HostSource> make_allocation_source(std::vector<HostSlots> hosts) {
  return std::make_unique<Allocation>(std::move(hosts));
}

}  // namespace peal
