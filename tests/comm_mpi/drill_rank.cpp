// One rank of a job in which one rank does something wrong: run under mpirun by
// tests/cli/comm_drill_test.py, which prints its command line.
//   drill_rank shared|mpi HOST KIND FAULT RANK SEED DEADLINE FOLDER
// HOST: `peal` calls MPI_Init; or a program of its own does, which asks for the thread level
// `single`, `funneled`, `serialized` or `multiple`, has messages of its own under way all the time,
// numbers the ranks backwards, and makes its calls by the C++ API or, after `c-`, by the C API:
// `c-funneled`. KIND: a call of any_call.h, or `group`: an all_reduce in a group of RANK and the
// next. FAULT of rank RANK, while all ranks make calls of that kind:
//   stop, kill            by a signal, at any moment
//   pause                 stopped inside a call; goes on when somebody sends SIGCONT
//   link                  none: somebody cuts a cable once FOLDER/started is there, then makes
//                         FOLDER/cut
//   idle                  makes no more calls; nothing stops it
//   leave                 destroys its communicator and ends with 0
//   throw                 an exception that ends its work passes its groups and is told by abort
//   count, dtype, op, name, root   one call is another than that of its peers
//   order                 one call comes before its turn
// Each rank leaves FOLDER/flight/ and FOLDER/rank-R: its exit code, what it says, and for how many
// seconds since the calls began it could have run and had no core. FOLDER/fault is as old as the
// fault.
#include <mpi.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>

#include "comm/mpi_comm.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "tests/comm_mpi/any_call.h"
#include "tests/comm_mpi/c_communicator.h"
#include "tests/comm_mpi/own_traffic.h"

namespace peal {
namespace {

constexpr std::uint64_t kBefore = 20, kAt = 12, kCalls = 40;

struct Plan {
  std::string kind, fault, folder;
  int rank = 0;
  std::uint64_t seed = 0;
  double deadline = 1;
};

// How long threads of this process have waited for a core.
double seconds_without_core() {
  double nanoseconds = 0;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
    double ran = 0, waited = 0;
    std::ifstream(thread.path() / "schedstat") >> ran >> waited;
    nanoseconds += waited;
  }
  return nanoseconds * 1e-9;
}

double without_core_before = 0;  // the calls

void write_result(const Plan& plan, int rank, int code, const std::string& text) {
  const double without_core = seconds_without_core() - without_core_before;
  write_file_atomically(plan.folder + "/rank-" + std::to_string(rank),
                        cat(code, "\n", text, "\n", without_core, "\n"));
}

void touch(const Plan& plan, const char* file) {
  write_file_atomically(plan.folder + "/" + file, "");
}

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

class Drill {
 public:
  // `traffic`: of the host program; null: it has none.
  Drill(Communicator& comm, const Plan& plan, OwnTraffic* traffic)
      : comm_(comm),
        plan_(plan),
        traffic_(traffic),
        faulty_(comm.rank() == plan.rank),
        partner_((plan.rank + 1) % comm.world_size()),
        world_(comm, plan.seed, 300'000) {
    world_.set_pair(std::min(plan.rank, partner_), std::max(plan.rank, partner_));
  }

  void run() {
    const bool in_group = plan_.kind == "group";
    const bool member = faulty_ || comm_.rank() == partner_;
    group_ = comm_.make_group(std::vector{plan_.rank, partner_});
    if (group_) group_->set_flight_directory(plan_.folder + "/group");
    calls_ = &world_;
    kind_ = plan_.kind;
    std::optional<AnyCall> group_calls;
    if (in_group && member) {
      calls_ = &group_calls.emplace(*group_, plan_.seed, 300'000);
      kind_ = "all_reduce";
    }
    warm_up();
    set_deadline(plan_.deadline);
    const bool apart = (in_group || plan_.kind == "send_recv") && !member;
    if (!apart) make_calls();
    // Until then the others make their calls, and who waits for them would rightly blame them.
    while (apart && plan_.fault == "link" && !std::filesystem::exists(plan_.folder + "/cut")) {
      sleep_for(0.001);
    }
    Stream s;
    comm_.wait(s, comm_.barrier(s, "end"));
    // Nobody has failed: a rank that ends early would be taken for one that has.
    comm_.set_deadline(60);
    comm_.wait(s, comm_.barrier(s, "all is well"));
  }

 private:
  void set_deadline(double seconds) {
    comm_.set_deadline(seconds);
    if (group_) group_->set_deadline(seconds);
  }

  void warm_up() {
    const auto& kinds = AnyCall::kinds();
    for (std::uint64_t i = 0; i < kBefore; ++i) {
      world_.make(kinds[mix64(plan_.seed + i) % kinds.size()], 1000 + i);
    }
    Stream s;
    comm_.wait(s, comm_.barrier(s, "start"));
    without_core_before = seconds_without_core();
    if (comm_.rank() == 0) touch(plan_, "started");
  }

  void make_calls() {
    const bool any_moment = plan_.fault == "stop" || plan_.fault == "kill" || plan_.fault == "link";
    if (any_moment && faulty_) strike();
    for (std::uint64_t i = 0; any_moment || i < kCalls; ++i) {
      if (traffic_) traffic_->go_on();
      if (faulty_ && i == kAt && !any_moment) {
        touch(plan_, "fault");
        wrong_call(i);
      } else {
        calls_->make(kind_, i);
      }
    }
  }

  // A signal to this process some moments from now.
  void strike() {
    if (plan_.fault == "link") return;
    const double delay = static_cast<double>(mix64(plan_.seed) % 30'000) * 1e-6;
    const int number = plan_.fault == "stop" ? SIGSTOP : SIGKILL;
    std::thread([this, delay, number] {
      sleep_for(delay);
      touch(plan_, "fault");
      ::kill(::getpid(), number);
    }).detach();
  }

  // What the faulty rank does in place of call i.
  void wrong_call(std::uint64_t i) {
    static const std::map<std::string, AnyCall::Twist> twists{{"count", AnyCall::Twist::count},
                                                              {"dtype", AnyCall::Twist::dtype},
                                                              {"op", AnyCall::Twist::op},
                                                              {"name", AnyCall::Twist::name},
                                                              {"root", AnyCall::Twist::root}};
    Stream s;
    if (const auto twist = twists.find(plan_.fault); twist != twists.end()) {
      return calls_->make(kind_, i, twist->second);
    }
    Communicator& comm = calls_ == &world_ ? comm_ : *group_;
    if (plan_.fault == "pause") {
      const Request request = calls_->start(kind_, i);
      ::kill(::getpid(), SIGSTOP);
      return comm.wait(s, request);
    }
    if (plan_.fault == "order") {
      if (kind_ == "send_recv") return calls_->make(kind_, i, AnyCall::Twist::turn);
      if (kind_ == "barrier") return calls_->make("broadcast", i);
      return comm.wait(s, comm.barrier(s, "too early"));
    }
    if (plan_.fault == "idle") sleep_for(3600);
    if (plan_.fault == "throw") fail_input("shard 3", "record 7 is cut short");
    if (plan_.fault == "leave") {
      group_.reset();
      throw Left{};
    }
    fail_input("fault", "\"", plan_.fault, "\" is not known");
  }

 public:
  struct Left {};

 private:
  Communicator& comm_;
  const Plan& plan_;
  OwnTraffic* traffic_;
  bool faulty_;
  int partner_;
  AnyCall world_;
  std::unique_ptr<Communicator> group_;
  AnyCall* calls_ = nullptr;
  std::string kind_;
};

// Who brings MPI into the process.
class Program {
 public:
  explicit Program(const std::string& host) : by_c_(host.starts_with("c-")) {
    if (host == "peal") {
      session_ = new MpiSession;  // left alive on an error, as in the program
      return;
    }
    const std::map<std::string, int> levels{{"single", MPI_THREAD_SINGLE},
                                            {"funneled", MPI_THREAD_FUNNELED},
                                            {"serialized", MPI_THREAD_SERIALIZED},
                                            {"multiple", MPI_THREAD_MULTIPLE}};
    const int wanted = levels.at(by_c_ ? host.substr(2) : host);
    int granted = -1, rank = 0;
    MPI_Init_thread(nullptr, nullptr, wanted, &granted);
    if (granted != wanted) fail_input("MPI", "grants thread level ", granted);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, 0, -rank, &ranks_);
    traffic_.emplace(MPI_COMM_WORLD);
  }

  std::unique_ptr<Communicator> communicator(bool shared_memory) {
    HostOptions options{.shared_memory = shared_memory, .deadline_seconds = 30};
    if (session_) return make_host_communicator(options);
    if (!by_c_) return make_communicator(ranks_, options);
    peal_comm_options c_options = PEAL_COMM_OPTIONS;
    c_options.shared_memory = shared_memory ? 1 : 0;
    c_options.deadline_seconds = options.deadline_seconds;
    peal_comm* comm = nullptr;
    CCommunicator::check(peal_comm_create(ranks_, &c_options, &comm));
    return std::make_unique<CCommunicator>(comm);
  }

  OwnTraffic* traffic() { return traffic_ ? &*traffic_ : nullptr; }

  // Waits for the other ranks.
  void finish() {
    delete session_;
    if (!traffic_) return;
    traffic_->finish();
    MPI_Finalize();
  }
  // Without waiting for them.
  [[noreturn]] void exit(int code) const {
    if (by_c_) peal_exit_process(code);
    MpiSession::exit_process(code);
  }

 private:
  bool by_c_;
  MpiSession* session_ = nullptr;
  MPI_Comm ranks_ = MPI_COMM_NULL;
  std::optional<OwnTraffic> traffic_;
};

int run(const std::string& memory, const std::string& host, const Plan& plan) {
  Program program(host);
  std::unique_ptr<Communicator> comm;
  int rank = -1;
  const auto fail = [&](int code, const std::string& text) {
    // What the layer has thrown it has told the others itself.
    if (comm && (!program.traffic() || plan.fault == "throw")) comm->abort(text, code);
    std::fprintf(stderr, "peal: %s\n", text.c_str());
    write_result(plan, rank, code, text);
    if (program.traffic()) comm.reset();  // as an exception does on its way
    program.exit(code);
  };
  try {
    comm = program.communicator(memory == "shared");
    rank = comm->rank();
    comm->set_flight_directory(plan.folder + "/flight");
    write_file_atomically(cat(plan.folder, "/pid-", rank), cat(::getpid()));
    Drill(*comm, plan, program.traffic()).run();
  } catch (const Error& error) {
    fail(exit_code(error.kind()), error.what());
  } catch (const std::exception& error) {
    fail(1, error.what());
  } catch (const Drill::Left&) {
    comm.reset();
    write_result(plan, rank, 0, "left");
    MPI_Finalize();  // where it waits for the others
    return 0;
  }
  comm.reset();
  write_result(plan, rank, 0, "done");
  program.finish();
  return 0;
}

}  // namespace
}  // namespace peal

int main(int count, char** words) {
  if (count != 9 || !peal::MpiSession::launched()) return 2;
  const peal::Plan plan{.kind = words[3],
                        .fault = words[4],
                        .folder = words[8],
                        .rank = std::atoi(words[5]),
                        .seed = std::strtoull(words[6], nullptr, 10),
                        .deadline = std::atof(words[7])};
  return peal::run(words[1], words[2], plan);
}
