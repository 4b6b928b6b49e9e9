// Ranks as MPI processes: shared memory when all are on one host, MPI otherwise.
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "comm/mpi_comm.h"
#include "comm/mpi_transport.h"
#include "comm/process_space.h"
#include "comm/queue.h"

namespace peal {
namespace {

void check(int status, std::string_view what) {
  if (status != MPI_SUCCESS) throw Error(ErrorKind::peer, "MPI", cat(what, " failed: ", status));
}

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}

int size_of(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  return size;
}

std::vector<std::string> names_in(MPI_Comm comm) {
  constexpr int kLength = 64;
  std::array<char, kLength> mine{};
  ::gethostname(mine.data(), kLength - 1);
  const auto n = static_cast<std::size_t>(size_of(comm));
  std::vector<char> all(n * kLength);
  check(MPI_Allgather(mine.data(), kLength, MPI_CHAR, all.data(), kLength, MPI_CHAR, comm),
        "exchange of host names");
  std::vector<std::string> names;
  for (std::size_t r = 0; r < n; ++r)
    names.push_back(cat("rank ", r, " (", &all[r * kLength], ")"));
  return names;
}

Cores cores_in(MPI_Comm host) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  ::sched_getaffinity(0, sizeof mine, &mine);
  cpu_set_t all = mine;
  check(MPI_Allreduce(&mine, &all, sizeof mine, MPI_BYTE, MPI_BOR, host), "exchange of cores");
  return {CPU_COUNT(&all), CPU_COUNT(&mine)};
}

// Every rank brings `bytes` bytes; `all` receives them in rank order. Collective.
using AllGather = std::function<void(const void* mine, std::size_t bytes, void* all)>;

template <typename T>
std::vector<T> gather_from_all(const AllGather& all_gather, int ranks, const T& mine) {
  std::vector<T> all(static_cast<std::size_t>(ranks));
  all_gather(&mine, sizeof mine, all.data());
  return all;
}

// Control memory for each group among `ranks` ranks that asks to `share`; a rank that does not
// takes part in the exchange. Null for all members when the system refuses one of them.
std::shared_ptr<ProcessSpace> share_control(const AllGather& all_gather, int ranks,
                                            const Group& group, bool share) {
  const std::size_t bytes = SharedSpace::bytes(group.size());
  const bool creates = share && group.rank == 0;
  SharedMapping mapping = creates ? SharedMapping::create(bytes) : SharedMapping();
  const SharedMapping::Address mine = mapping.address();
  std::shared_ptr<ProcessSpace> space;
  const auto attach = [&] {
    if (mapping.empty()) return;
    space = std::make_shared<ProcessSpace>(std::move(mapping), group.size(), group.rank, creates);
    space->state(group.rank).process = ::getpid();
  };
  if (creates) attach();
  const auto addresses = gather_from_all(all_gather, ranks, mine);
  if (share && !creates) {
    mapping = SharedMapping::open(addresses[static_cast<std::size_t>(group.members[0])], bytes);
    attach();
  }
  const auto attached = gather_from_all<std::int64_t>(all_gather, ranks, space ? 1 : 0);
  for (const int member : group.members) {
    if (attached[static_cast<std::size_t>(member)] == 0) return nullptr;
  }
  return space;
}

// Where the ranks of a communicator are and how they reach each other.
struct Site {
  std::vector<int> hosts;  // by rank: a number for its host
  bool shared_memory = true;
  bool mpi_progress = true;                   // a thread of ours may call MPI
  std::shared_ptr<const MpiChannel> channel;  // null: all share memory
  std::vector<int> in_channel;                // by rank

  bool one_host() const {
    for (const int host : hosts) {
      if (host != hosts[0]) return false;
    }
    return true;
  }
  bool wants_sharing() const { return shared_memory && hosts.size() > 1 && one_host(); }
};

class HostCommunicator final : public QueuedCommunicator {
 public:
  // `space`: null where ranks reach each other over the channel.
  HostCommunicator(Place place, Site site, std::shared_ptr<ProcessSpace> space, std::int64_t group)
      : QueuedCommunicator(std::move(place)), site_(std::move(site)), space_(std::move(space)) {
    if (world_size() == 1) {
      start(std::make_unique<SharedTransport>(make_thread_space(1), watch()));
    } else if (space_) {
      start(std::make_unique<SharedTransport>(space_, watch()));
    } else {
      start(make_mpi_transport(watch(), site_.channel, site_.in_channel, group));
    }
  }

  Buffer allocate(std::size_t bytes) override {
    if (bytes == 0 || !space_) return Buffer(bytes);
    std::vector<SharedMapping> maps(static_cast<std::size_t>(world_size()));
    SharedMapping& mine = maps[static_cast<std::size_t>(rank())];
    mine = SharedMapping::create(bytes);
    const auto addresses = gather_from_all(exchange("allocate"), world_size(), mine.address());
    bool complete = true;
    for (std::size_t r = 0; r < maps.size(); ++r) {
      if (maps[r].empty()) maps[r] = SharedMapping::open(addresses[r], bytes);
      complete = complete && !maps[r].empty();
    }
    const std::int64_t mapped = complete ? 1 : 0;
    for (const std::int64_t other : gather_from_all(exchange("allocated"), world_size(), mapped)) {
      complete = complete && other == 1;
    }
    if (!complete) return Buffer(bytes);  // private memory works too, through bounce buffers
    mine.close_file();
    std::byte* data = mine.data();
    const std::int64_t region = space_->add(std::move(maps), bytes);
    return Buffer(data, bytes, kCpu, [space = space_, region] { space->remove(region); });
  }

 protected:
  std::unique_ptr<Communicator> make_group_communicator(const Group& group) override {
    Site site;
    site.shared_memory = site_.shared_memory;
    site.mpi_progress = site_.mpi_progress;
    site.channel = site_.channel;
    for (const int member : group.members) {
      const auto m = static_cast<std::size_t>(member);
      site.hosts.push_back(site_.hosts[m]);
      if (site.channel) site.in_channel.push_back(site_.in_channel[m]);
    }
    std::shared_ptr<ProcessSpace> space;
    if (site_.shared_memory) {
      const bool share = !group.empty() && site.wants_sharing();
      space = share_control(exchange("group"), world_size(), group, share);
    }
    if (group.empty()) return nullptr;
    if (!space && !site.channel && group.size() > 1) {
      fail_internal(cat("group of ", group.size()), "the system refuses more shared memory");
    }
    Place place = place_in(group, site_.hosts);
    place.progress_thread = space || group.size() == 1 || site.mpi_progress;
    return std::make_unique<HostCommunicator>(std::move(place), std::move(site), std::move(space),
                                              group.id);
  }

 private:
  AllGather exchange(std::string_view name) {
    return [this, name](const void* mine, std::size_t bytes, void* all) {
      const auto count = static_cast<std::int64_t>(bytes);
      Stream s;
      wait(s, all_gather(s, name, {const_cast<void*>(mine), {count}, DType::u8},
                         {all, {count * world_size()}, DType::u8}));
    };
  }

  Site site_;
  std::shared_ptr<ProcessSpace> space_;
};

// Frees a communicator of ours that was needed during set-up only.
struct OwnComm {
  MPI_Comm comm = MPI_COMM_NULL;
  OwnComm() = default;
  OwnComm(const OwnComm&) = delete;
  OwnComm& operator=(const OwnComm&) = delete;
  ~OwnComm() {
    if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
  }
};

std::string level_warning() {
  int level = MPI_THREAD_SINGLE;
  MPI_Query_thread(&level);
  const char* name = level == MPI_THREAD_SERIALIZED ? "MPI_THREAD_SERIALIZED"
                     : level == MPI_THREAD_FUNNELED ? "MPI_THREAD_FUNNELED"
                                                    : "MPI_THREAD_SINGLE";
  return cat("MPI grants ", name,
             ": calls run inside wait() and not beside the computation; ask "
             "MPI_Init_thread for MPI_THREAD_MULTIPLE to have them overlap");
}

// `mpi_progress`: whether a thread of ours may call MPI.
std::unique_ptr<Communicator> make_root(MPI_Comm ranks, const HostOptions& options,
                                        bool mpi_progress) {
  OwnComm all, host;
  check(MPI_Comm_dup(ranks, &all.comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(all.comm, MPI_ERRORS_RETURN);
  check(MPI_Comm_split_type(all.comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host.comm),
        "MPI_Comm_split_type");
  const int n = size_of(all.comm);
  const AllGather exchange = [&](const void* mine, std::size_t bytes, void* out) {
    const int count = static_cast<int>(bytes);
    check(MPI_Allgather(mine, count, MPI_BYTE, out, count, MPI_BYTE, all.comm), "MPI_Allgather");
  };
  QueuedCommunicator::Place place;
  place.rank = rank_in(all.comm);
  place.local_rank = rank_in(host.comm);
  place.local_size = size_of(host.comm);
  place.backend = "host";
  place.names = names_in(all.comm);
  place.cores = cores_in(host.comm);
  place.deadline = options.deadline_seconds;
  if (options.warn) place.warn = options.warn;
  int first_of_host = place.rank;
  check(MPI_Bcast(&first_of_host, 1, MPI_INT, 0, host.comm), "MPI_Bcast");
  Site site;
  site.shared_memory = options.shared_memory;
  site.mpi_progress = mpi_progress;
  site.hosts = gather_from_all(exchange, n, first_of_host);
  Group world;
  world.rank = place.rank;
  for (int r = 0; r < n; ++r) world.members.push_back(r);
  std::shared_ptr<ProcessSpace> space;
  if (site.wants_sharing()) {
    space = share_control(exchange, n, world, /*share=*/true);
    if (!space && place.rank == 0) {
      place.warn("the ranks of this host cannot share memory (memfd, /proc/PID/fd); using MPI");
    }
  }
  if (!space && n > 1) {
    site.channel = std::make_shared<MpiChannel>(all.comm);
    site.in_channel = world.members;
    place.progress_thread = mpi_progress;
    if (!mpi_progress && place.rank == 0) place.warn(level_warning());
  }
  return std::make_unique<HostCommunicator>(std::move(place), std::move(site), std::move(space), 0);
}

}  // namespace

MpiSession::MpiSession() {
  // MPI writes to sockets of peers that may have ended: that is an error to report, no reason to
  // vanish without a word.
  struct sigaction action {};
  if (::sigaction(SIGPIPE, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
    ::signal(SIGPIPE, SIG_IGN);
  }
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (initialised != 0) {
    fail_input("MPI", "this program has initialised it; use make_communicator of comm/mpi_comm.h");
  }
  int granted = MPI_THREAD_SINGLE;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &granted), "MPI_Init_thread");
  if (granted < MPI_THREAD_SERIALIZED) {
    MPI_Finalize();
    fail_input("MPI", "this MPI library grants thread level ", granted, "; MPI_THREAD_SERIALIZED (",
               MPI_THREAD_SERIALIZED, ") is needed: use one that was built with thread support");
  }
}

MpiSession::~MpiSession() {
  MPI_Finalize();
}

bool MpiSession::launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

void MpiSession::exit_process(int code) {
  std::fflush(nullptr);
  // A launcher kills the other ranks when one fails: time for them to say why first.
  if (code != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
  ::_exit(code);
}

std::unique_ptr<Communicator> make_host_communicator(const HostOptions& options) {
  auto world = make_root(MPI_COMM_WORLD, options, /*mpi_progress=*/true);
  if (const char* flight = std::getenv("PEAL_FLIGHT_DIRECTORY")) {
    world->set_flight_directory(flight);
  }
  return world;
}

std::unique_ptr<Communicator> make_communicator(MPI_Comm ranks, const HostOptions& options) {
  int initialised = 0, finalised = 0, between_groups = 0, level = MPI_THREAD_SINGLE;
  MPI_Initialized(&initialised);
  if (initialised == 0) fail_input("make_communicator", "MPI is not initialised; call MPI_Init");
  MPI_Finalized(&finalised);
  if (finalised != 0) fail_input("make_communicator", "MPI is finalised already");
  if (ranks == MPI_COMM_NULL) fail_input("make_communicator", "the communicator is MPI_COMM_NULL");
  check(MPI_Comm_test_inter(ranks, &between_groups), "MPI_Comm_test_inter");
  if (between_groups != 0) {
    fail_input("make_communicator", "an inter-communicator; an intra-communicator is needed");
  }
  if (!(options.deadline_seconds > 0)) {
    fail_input("make_communicator", "deadline ", options.deadline_seconds, " s; more than 0");
  }
  check(MPI_Query_thread(&level), "MPI_Query_thread");
  return make_root(ranks, options, /*mpi_progress=*/level == MPI_THREAD_MULTIPLE);
}

}  // namespace peal
