#include "launcher/elastic.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <random>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/state/checkpoint.h"
#include "launcher/host_pool.h"
#include "launcher/program.h"
#include "launcher/rank_line.h"
#include "launcher/run_directory.h"
#include "launcher/status.h"
#include "launcher/supervised.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kFirstAnswers = 10;  // seconds that the first start waits for all hosts
constexpr double kReason = 0.5;       // from the first rank that fails to those that say why
constexpr double kStopSeconds = 120;  // for a step and a checkpoint
constexpr double kAskSeconds = 1.5;
constexpr double kSlowSeconds = 30;  // that a straggler is given

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string tenths(double value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.1f", value);
  return out;
}

std::string steps(std::int64_t count) {
  return cat(count, count == 1 ? " step" : " steps");
}

void say(const std::string& text) {
  const auto now = std::chrono::system_clock::now();
  const std::time_t time = std::chrono::system_clock::to_time_t(now);
  std::tm parts{};
  localtime_r(&time, &parts);
  char clock[16];
  std::strftime(clock, sizeof clock, "%H:%M:%S", &parts);
  const auto thousandths =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::fprintf(stderr, "elastic %s.%03d: %s\n", clock, static_cast<int>(thousandths), text.c_str());
}

// Tells the ranks of this supervisor from all others, and by what stands before the dash those of
// this run directory.
std::string make_token(const std::filesystem::path& run_directory) {
  const std::string path = run_directory.string();
  std::random_device random;
  return hex(xxh64(path.data(), path.size())) + "-" + hex(std::uint64_t{random()} << 32 | random());
}

std::string prefix_of(const std::string& token) {
  return token.substr(0, token.find('-'));
}

// Wrong input, or numbers that went wrong: the same would come again.
bool is_hopeless(int code) {
  return code == 2 || code == 4;
}

// How a start ended.
struct End {
  enum class Kind : std::uint8_t { finished, stopped, regroup, fault, hopeless } kind;
  int code = 0;
  std::string why;
};

class Supervisor {
 public:
  explicit Supervisor(const ElasticRun& run)
      : run_(run),
        range_(parse_rank_range(run.options.range)),
        token_(make_token(run.run_directory)),
        pool_({.hosts = first_hosts(run),
               .source = source_of(run),
               .token = token_,
               .deadline = run.options.host_deadline,
               .forgive = run.options.forgive},
              say),
        budget_(run.options.max_restarts),
        fresh_(run.fresh),
        virtual_ranks_(run.virtual_ranks) {}

  int supervise();
  std::vector<std::string> command(const std::vector<HostSlots>& hosts) const;
  static std::vector<HostSlots> first_hosts(const ElasticRun& run);
  static std::unique_ptr<HostSource> source_of(const ElasticRun& run);
  std::vector<HostSlots> place(const std::vector<HostSlots>& hosts) const;

 private:
  void take_lock();
  void block_signals();
  void take_signals(int milliseconds);
  bool wait_for_hosts();
  bool pause(double seconds);
  void start();
  End watch();
  std::optional<End> look_at_program();
  std::optional<End> look_at_hosts();
  void take_ends(const HostSlots& host, HostLink& link);
  std::optional<End> look_at_ends();
  void look_at_progress();
  void look_for_regroup();
  std::optional<RunStatus> status() const;
  bool recover(const End& end);
  void end_ranks();
  void write_waiting(const std::string& why);
  int finish(int code, const std::string& state, const std::string& why);
  int stop_without_ranks();
  void salvage();

  ElasticRun run_;
  RankRange range_;
  std::string token_;
  HostPool pool_;
  RestartBudget budget_;
  bool fresh_;
  int virtual_ranks_;
  int lock_ = -1;
  sigset_t handled_{};
  int stops_asked_ = 0, stops_told_ = 0;

  // Of the present start.
  std::vector<HostSlots> hosts_;
  std::unique_ptr<RunningProgram> program_;
  Clock::time_point started_;
  double last_started_ = 0;     // in status.json, of the start before
  std::vector<HostEnds> ends_;  // as hosts_
  std::optional<Clock::time_point> lost_rank_, regroup_asked_, slow_since_;
  std::string slow_host_;
  bool training_ = false;  // it has finished a step
  std::int64_t step_ = 0;  // newest finished, of all starts

  // Of the fault before it.
  bool recovering_ = false;
  Clock::time_point noticed_, ended_;
};

std::vector<HostSlots> Supervisor::first_hosts(const ElasticRun& run) {
  if (!run.plan.hosts.empty()) return run.plan.hosts;
  const RankRange range = parse_rank_range(run.options.range);
  return {{"localhost", run.plan.ranks > 0 ? run.plan.ranks : range.most}};
}

std::unique_ptr<HostSource> Supervisor::source_of(const ElasticRun& run) {
  if (run.allocation) return make_allocation_source(run.plan.hosts);
  if (!run.hostfile.empty()) return make_hostfile_source(run.hostfile, run.slots);
  return nullptr;
}

// As many ranks as hosts, the range and the job allow.
std::vector<HostSlots> Supervisor::place(const std::vector<HostSlots>& hosts) const {
  const int most = virtual_ranks_ > 0 ? std::min(range_.most, virtual_ranks_) : range_.most;
  return place_ranks(hosts, most);
}

std::vector<std::string> Supervisor::command(const std::vector<HostSlots>& hosts) const {
  RankPlan plan = run_.plan;
  plan.elastic = true;
  plan.ranks = rank_count(hosts);
  if (!plan.hosts.empty()) plan.hosts = hosts;
  for (const std::string& variable : environment_of({token_, pool_.left_out()})) {
    plan.environment.push_back(variable);
  }
  return mpirun_command(plan, run_.train(fresh_, virtual_ranks_));
}

// Held as long as this process lives: the ranks of a host out of reach could not give it back.
void Supervisor::take_lock() {
  make_folders(run_.run_directory);
  const std::filesystem::path file = run_.run_directory / ".lock";
  lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  const auto begin = Clock::now();
  while (lock_ >= 0 && ::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    if (since(begin) > 20) {
      fail_input(run_.run_directory.string(),
                 "another run is at work in this directory; wait for its end or choose another "
                 "run.directory");
    }
    ::usleep(100000);
  }
}

void Supervisor::block_signals() {
  sigemptyset(&handled_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&handled_, signal);
  ::sigprocmask(SIG_BLOCK, &handled_, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

// Waits so long, or for a signal.
void Supervisor::take_signals(int milliseconds) {
  const timespec time{.tv_sec = 0, .tv_nsec = milliseconds * 1000000L};
  const int signal = ::sigtimedwait(&handled_, nullptr, &time);
  if (signal == SIGUSR2) {
    if (program_) program_->signal(SIGUSR2);
  } else if (signal > 0) {
    ++stops_asked_;
  }
}

std::optional<RunStatus> Supervisor::status() const {
  try {
    return read_status(run_.run_directory);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// False: it was stopped, or the time is over.
bool Supervisor::wait_for_hosts() {
  const auto begin = Clock::now();
  bool told = false;
  while (stops_asked_ == 0) {
    pool_.tick();
    const bool all_known = !pool_.any_connecting() || since(begin) > kFirstAnswers;
    hosts_ = place(pool_.available());
    const int ranks = rank_count(hosts_);
    if (ranks >= range_.least && all_known) return true;
    if (all_known && !told) {
      const std::string why = cat("room for ", ranks, " of at least ", range_.least, " ranks on ",
                                  hosts_.empty() ? "no host" : host_list(hosts_));
      say(cat(why, "; waiting for hosts up to ", run_.options.wait, " s (--wait)"));
      write_waiting(why);
      told = true;
    }
    if (since(begin) > run_.options.wait) return false;
    take_signals(50);
  }
  return false;
}

// False: stopped meanwhile.
bool Supervisor::pause(double seconds) {
  const auto begin = Clock::now();
  while (since(begin) < seconds && stops_asked_ == 0) {
    pool_.tick();
    take_signals(50);
  }
  return stops_asked_ == 0;
}

void Supervisor::start() {
  const int ranks = rank_count(hosts_);
  if (virtual_ranks_ == 0) {
    virtual_ranks_ = ranks;
    say(cat("parallel.virtual_ranks is not set: it is ", ranks,
            " from now on, and more ranks will not be used"));
  }
  const std::optional<RunStatus> before = status();
  last_started_ = before ? before->started : 0;
  say(cat(recovering_ ? "restarting with " : "starting ", ranks,
          ranks == 1 ? " rank on " : " ranks on ", host_list(hosts_)));
  program_ = std::make_unique<RunningProgram>(
      command(hosts_), "Open MPI's mpirun must be on PATH (Debian package openmpi-bin)");
  started_ = Clock::now();
  training_ = false;
  ends_.clear();
  for (const HostSlots& host : hosts_) ends_.push_back({host, {}});
  lost_rank_.reset();
  regroup_asked_.reset();
  slow_since_.reset();
}

// What mpirun's end means.
std::optional<End> Supervisor::look_at_program() {
  if (stops_asked_ > stops_told_) {
    std::fputs(stops_told_ > 0 ? "ending the ranks\n"
                               : "stopping: the ranks finish a step and write a checkpoint; once "
                                 "more ends them at once\n",
               stderr);
    program_->signal(stops_told_ > 0 ? SIGTERM : SIGUSR1);
    stops_told_ = stops_asked_;
  }
  if (!program_->ended()) return look_at_ends();
  const std::optional<RunStatus> now = status();
  const bool ours = now && now->started != last_started_;
  const int code = program_->code();
  if (stops_told_ > 0) return End{End::Kind::stopped, code, ""};
  if (code == 0 && ours && now->state == "finished") return End{End::Kind::finished, 0, ""};
  if (code == 0 && regroup_asked_) return End{End::Kind::regroup, 0, ""};
  if (code == 0) return End{End::Kind::stopped, 0, ""};
  const std::string said = ours && now->state == "failed" ? now->error : "";
  const auto kind = is_hopeless(code) ? End::Kind::hopeless : End::Kind::fault;
  return End{kind, code, said.empty() ? cat("the ranks ended with exit code ", code) : said};
}

// What the ranks have told their agents comes before mpirun's end: that takes seconds.
std::optional<End> Supervisor::look_at_ends() {
  if (!lost_rank_ || stops_told_ > 1) return std::nullopt;
  int code = 0;
  for (const HostEnds& ends : ends_) {
    for (const int end : ends.codes) {
      if (end == RankLines::kNoWord) {
        return End{End::Kind::fault, 0, cat("a rank on ", ends.host.name, " was killed")};
      }
      if (code == 0 || is_hopeless(end)) code = end;
    }
  }
  const std::optional<RunStatus> now = status();
  const bool said = now && now->started != last_started_ && now->state == "failed";
  if (!(said && host_at_fault(ends_)) && since(*lost_rank_) < kReason) return std::nullopt;
  return End{is_hopeless(code) ? End::Kind::hopeless : End::Kind::fault, code,
             said ? now->error : cat("a rank ended with exit code ", code)};
}

void Supervisor::take_ends(const HostSlots& host, HostLink& link) {
  const std::vector<int> codes = link.take_ends();
  if (codes.empty()) return;
  if (!lost_rank_) lost_rank_ = Clock::now();
  for (HostEnds& ends : ends_) {
    if (ends.host.name != host.name) continue;
    ends.codes.insert(ends.codes.end(), codes.begin(), codes.end());
  }
}

std::optional<End> Supervisor::look_at_hosts() {
  pool_.tick();
  End end{End::Kind::fault, 0, ""};
  for (const HostSlots& host : hosts_) {
    if (HostLink* link = pool_.link(host.name)) {
      take_ends(host, *link);
    } else {
      end.why = cat("host ", host.name, ": ", pool_.why_lost(host.name));
    }
  }
  if (!end.why.empty()) return end;
  if (regroup_asked_ && since(*regroup_asked_) > kStopSeconds) {
    end.why = cat("the ranks have not stopped in ", kStopSeconds, " s");
    return end;
  }
  return std::nullopt;
}

void Supervisor::look_at_progress() {
  const std::optional<RunStatus> now = status();
  if (!now || now->started == last_started_) return;
  fresh_ = false;  // the directory is this run's by now
  step_ = std::max(step_, now->step);
  if (training_ || now->step <= now->first_step) return;
  training_ = true;
  pool_.set_run(hex(RunDirectory::number_in(run_.run_directory)));
  if (!recovering_) return;
  recovering_ = false;
  say(cat("training again ", tenths(since(noticed_)), " s after it was noticed (ranks ended after ",
          tenths(std::chrono::duration<double>(ended_ - noticed_).count()), " s, restarted after ",
          tenths(std::chrono::duration<double>(started_ - noticed_).count()),
          " s); it went on after step ", now->first_step, ", ", steps(now->done_again),
          " done again"));
}

// More hosts, or fewer where one was taken from the list or is far too slow: ranks stop at the end
// of a step, with a checkpoint.
void Supervisor::look_for_regroup() {
  if (regroup_asked_ || !training_ || since(started_) < run_.options.settle || stops_asked_ > 0) {
    return;
  }
  const std::optional<RunStatus> now = status();
  const SlowRank slow = now && now->started != last_started_ ? now->straggler : SlowRank{};
  const bool too_slow = slow.rank >= 0 && run_.options.max_slowdown > 0 &&
                        slow.factor > run_.options.max_slowdown && pool_.is_named(slow.host);
  if (!too_slow || slow.host != slow_host_) slow_since_.reset();
  if (too_slow && !slow_since_) slow_since_ = Clock::now();
  slow_host_ = slow.host;
  std::vector<HostSlots> hosts = pool_.available();
  if (slow_since_ && since(*slow_since_) > kSlowSeconds) {
    std::erase_if(hosts, [&](const HostSlots& host) { return host.name == slow.host; });
    if (rank_count(place(hosts)) >= range_.least) {
      pool_.leave_out(slow.host, cat("its rank ", slow.rank, " takes ", tenths(slow.factor),
                                     " times as long as the others"));
    }
    slow_since_.reset();
  }
  const std::vector<HostSlots> wanted = place(pool_.available());
  const bool more = rank_count(wanted) > rank_count(hosts_);
  const bool one_goes = std::any_of(hosts_.begin(), hosts_.end(), [&](const HostSlots& host) {
    return !pool_.is_named(host.name);
  });
  if (!more && !(one_goes && rank_count(wanted) >= range_.least)) return;
  say(cat("going over to ", rank_count(wanted), " ranks on ", host_list(wanted),
          ": the ranks stop at the end of a step"));
  program_->signal(SIGUSR1);
  regroup_asked_ = Clock::now();
}

End Supervisor::watch() {
  while (true) {
    take_signals(20);
    if (const std::optional<End> end = look_at_hosts()) return *end;
    look_at_progress();
    if (const std::optional<End> end = look_at_program()) return *end;
    look_for_regroup();
  }
}

// Everywhere; a host that does not say that its ranks have gone is lost. Then mpirun has nothing to
// wait for.
void Supervisor::end_ranks() {
  pool_.ask("end " + prefix_of(token_), "ended", std::max(kAskSeconds, run_.options.host_deadline));
  if (!program_) return;
  const auto begin = Clock::now();
  while (!program_->ended() && since(begin) < 0.3) ::usleep(5000);
  program_->kill();
}

// After a fault; false: there will be no other start.
bool Supervisor::recover(const End& end) {
  noticed_ = lost_rank_ ? *lost_rank_ : Clock::now();
  recovering_ = true;
  say(cat("fault: ", end.why, "; step ", step_, " is the last that is known to be finished"));
  const std::optional<std::string> at_fault = host_at_fault(ends_);
  end_ranks();
  ended_ = Clock::now();
  std::vector<std::string> lost;
  for (const HostSlots& host : hosts_) {
    if (pool_.link(host.name) == nullptr) lost.push_back(host.name);
  }
  // A host alone would leave nothing: there the budget decides.
  if (hosts_.size() > 1) {
    for (const std::string& host : lost) pool_.fault(host, pool_.why_lost(host));
    if (lost.empty() && at_fault) pool_.fault(*at_fault, "one of its ranks ended");
  }
  if (!budget_.spend(step_)) {
    say(cat("the budget of ", budget_.most(),
            " restarts without a new step (--max-restarts) is spent"));
    return false;
  }
  write_waiting(end.why);
  const double seconds = budget_.pause();
  if (seconds > 0) say(cat("pausing ", seconds, " s"));
  return pause(seconds);
}

void Supervisor::write_waiting(const std::string& why) {
  std::optional<RunStatus> now = status();
  if (!now) return;
  now->state = "waiting";
  now->error = why;
  now->left_out = pool_.left_out();
  now->straggler = {};
  write_status(run_.run_directory, *now);
}

// What only memory holds goes to disk before it is freed.
void Supervisor::salvage() {
  std::int64_t newest = -1;
  std::string host;
  for (const auto& [name, step] : pool_.ask("newest", "newest", kAskSeconds)) {
    if (std::stoll(step) <= newest) continue;
    newest = std::stoll(step);
    host = name;
  }
  const auto ignore = [](const std::string&) {};
  const std::optional<Checkpoint> disk = Checkpoint::open_newest(run_.run_directory, ignore);
  if (newest <= (disk ? disk->info().step : 0) || pool_.link(host) == nullptr) return;
  HostLink& link = *pool_.link(host);
  link.say("save " + (run_.run_directory / "checkpoints").string());
  for (const auto begin = Clock::now(); since(begin) < kStopSeconds; ::usleep(10000)) {
    link.tick();
    if (const auto saved = link.take_answer("saved")) {
      say(cat("step ", *saved, " went from the memory of ", host, " to disk"));
      return;
    }
    if (const auto failed = link.take_answer("failed")) {
      say(cat("step ", newest, " did not get from the memory of ", host, " to disk", *failed));
      return;
    }
    if (link.state() == HostLink::State::gone) return;
  }
}

int Supervisor::finish(int code, const std::string& state, const std::string& why) {
  end_ranks();
  if (state != "finished") salvage();
  pool_.ask("forget", "forgotten", kAskSeconds);
  std::optional<RunStatus> now = status();
  if (now && (now->state == "waiting" || now->state == "running" || !why.empty())) {
    now->state = state;
    now->error = why;
    now->exit_code = code;
    now->left_out = pool_.left_out();
    write_status(run_.run_directory, *now);
  }
  if (!why.empty()) say(why);
  return code;
}

int Supervisor::stop_without_ranks() {
  const int code = finish(0, "stopped", "");
  say("stopped while no ranks ran; the same command goes on from there");
  return code;
}

int Supervisor::supervise() {
  take_lock();
  block_signals();
  while (true) {
    const bool enough = wait_for_hosts();
    if (stops_asked_ > 0) return stop_without_ranks();
    if (!enough) {
      return finish(3, "failed",
                    cat("no ", range_.least, " ranks found room within ", run_.options.wait, " s"));
    }
    // Those that an earlier supervisor of this run has left. Whatever a host had to say of the
    // ranks before has come when it answers.
    pool_.ask("end " + prefix_of(token_), "ended", kAskSeconds);
    if (rank_count(place(pool_.available())) < range_.least) continue;
    hosts_ = place(pool_.available());
    for (const HostSlots& host : hosts_) pool_.link(host.name)->take_ends();
    if (!fresh_) {
      if (const std::uint64_t number = RunDirectory::number_in(run_.run_directory)) {
        pool_.set_run(hex(number));
      }
    }
    start();
    const End end = watch();
    switch (end.kind) {
      case End::Kind::finished:
        return finish(0, "finished", "");
      case End::Kind::stopped:
        return finish(end.code, "stopped", "");
      case End::Kind::hopeless:
        return finish(end.code, "failed", cat(end.why, " (another start would not help)"));
      case End::Kind::regroup:
        noticed_ = *regroup_asked_;
        ended_ = Clock::now();
        recovering_ = true;
        break;
      case End::Kind::fault:
        if (recover(end)) break;
        if (stops_asked_ > 0) return stop_without_ranks();
        return finish(3, "failed", end.why);
    }
  }
}

}  // namespace

std::vector<std::string> first_command(const ElasticRun& run) {
  const Supervisor supervisor(run);
  return supervisor.command(supervisor.place(Supervisor::first_hosts(run)));
}

int launch_elastic(const ElasticRun& run) {
  return Supervisor(run).supervise();
}

}  // namespace peal
