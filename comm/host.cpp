// Ranks as MPI processes: shared memory inside a host, MPI between hosts.
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "comm/facts.h"
#include "comm/mpi_comm.h"
#include "comm/mpi_transport.h"
#include "comm/pmix_fence.h"
#include "comm/process_space.h"
#include "comm/queue.h"
#include "comm/tuning.h"
#include "comm/versions.h"

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

// Before ranks share anything whose form could have changed from one version to another. The form
// of this exchange, and of that of the names, therefore never changes.
void require_same_versions(MPI_Comm comm, const std::vector<std::string>& names) {
  const std::string mine = pack_facts(library_versions());
  compare_facts(names, gather_texts(comm, mine, "exchange of versions"));
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

// Who shares memory in a communicator that is being made by `ranks` ranks.
struct Sharing {
  Group neighbours;      // this rank and those of its host, of `ranks`
  std::vector<int> all;  // of the communicator, of `ranks`
  bool wanted = false;   // the same on all of these
  bool fetches = false;  // where the kernel lets them
};

// Control memory for each host of each communicator that wants it; a rank that does not takes part
// in the exchange. Null for all of a communicator when the system refuses one of them.
std::shared_ptr<ProcessSpace> share_control(const AllGather& all_gather, int ranks,
                                            const Sharing& sharing) {
  const Group& near = sharing.neighbours;
  const std::size_t bytes = SharedSpace::bytes(near.size());
  const bool creates = sharing.wanted && near.rank == 0;
  SharedMapping mapping = creates ? SharedMapping::create(bytes) : SharedMapping();
  const SharedMapping::Address mine = mapping.address();
  std::shared_ptr<ProcessSpace> space;
  const auto attach = [&] {
    if (mapping.empty()) return;
    space = std::make_shared<ProcessSpace>(std::move(mapping), near.size(), near.rank, creates);
  };
  if (creates) attach();
  const auto addresses = gather_from_all(all_gather, ranks, mine);
  if (sharing.wanted && !creates) {
    mapping = SharedMapping::open(addresses[static_cast<std::size_t>(near.members[0])], bytes);
    attach();
  }
  const auto attached = gather_from_all<std::int64_t>(all_gather, ranks, space ? 1 : 0);
  const std::int64_t can_fetch = space && sharing.fetches && space->can_fetch() ? 1 : 0;
  const auto can = gather_from_all(all_gather, ranks, can_fetch);
  for (const int member : sharing.all) {
    if (attached[static_cast<std::size_t>(member)] == 0) return nullptr;
  }
  const auto yes = [&](int member) { return can[static_cast<std::size_t>(member)] == 1; };
  if (space && std::all_of(near.members.begin(), near.members.end(), yes)) space->allow_fetches();
  return space;
}

// What decides the ways of all-reduces; the same on every rank.
struct Choice {
  CostModel costs;
  std::optional<Way> only;
};

// Where the ranks of a communicator are and how they reach each other.
struct Site {
  std::vector<int> hosts;  // by rank: a number for its host
  bool shared_memory = true;
  bool fetches = true;
  bool mpi_progress = true;                   // a thread of ours may call MPI
  std::shared_ptr<const MpiChannel> channel;  // null: all share memory
  std::vector<int> in_channel;                // by rank
  Choice choice;

  bool one_host() const {
    for (const int host : hosts) {
      if (host != hosts[0]) return false;
    }
    return true;
  }
  // The ranks of `rank`'s host, as a group of all.
  Group neighbours(int rank) const {
    Group group;
    for (std::size_t r = 0; r < hosts.size(); ++r) {
      if (hosts[r] != hosts[static_cast<std::size_t>(rank)]) continue;
      if (static_cast<int>(r) == rank) group.rank = group.size();
      group.members.push_back(static_cast<int>(r));
    }
    return group;
  }
  WayChooser ways(bool share_memory, int rank) const {
    const HostLayout layout(hosts, rank);
    WayChooser::Hosts all;
    all.share_memory = share_memory;
    all.in_order = layout.in_order;
    const int ranks = static_cast<int>(hosts.size());
    all.spread = {ranks, static_cast<int>(layout.members.size()), 1, layout.rails};
    for (const auto& members : layout.members) {
      all.spread.of_host = std::max(all.spread.of_host, static_cast<int>(members.size()));
    }
    // One host whose ranks share no memory: as if each had a host of its own.
    if (all.spread.hosts == 1) all.spread = {ranks, ranks, 1, 1};
    return {choice.costs, all, choice.only};
  }
  // Whether some ranks can share memory. The same on every rank.
  bool wants_sharing() const {
    if (!shared_memory) return false;
    for (int r = 0; r < static_cast<int>(hosts.size()); ++r) {
      if (neighbours(r).size() > 1) return true;
    }
    return false;
  }
};

class HostCommunicator final : public QueuedCommunicator {
 public:
  // `space`: of the ranks of this host; null: none is shared.
  HostCommunicator(Place place, Site site, std::shared_ptr<ProcessSpace> space, std::int64_t group)
      : QueuedCommunicator(std::move(place)), site_(std::move(site)), space_(std::move(space)) {
    const std::size_t mail = most_mail_bytes(site_.choice.costs, world_size(), site_.choice.only);
    if (world_size() == 1) {
      start(std::make_unique<SharedTransport>(make_thread_space(1), watch(), mail));
    } else if (space_ && site_.one_host()) {
      start(std::make_unique<SharedTransport>(space_, watch(), mail));
    } else {
      start(make_mpi_transport(watch(), site_.channel, site_.in_channel, group,
                               {space_, HostLayout(site_.hosts, rank())},
                               site_.ways(space_ != nullptr, rank())));
    }
  }

  Buffer allocate(std::size_t bytes) override {
    if (bytes == 0 || !space_) return Buffer(bytes);
    const Group near = site_.neighbours(rank());
    std::vector<SharedMapping> maps(near.members.size());
    SharedMapping& mine = maps[static_cast<std::size_t>(near.rank)];
    mine = SharedMapping::create(bytes);
    const auto addresses = gather_from_all(exchange("allocate"), world_size(), mine.address());
    bool complete = true;
    for (std::size_t r = 0; r < maps.size(); ++r) {
      const auto& address = addresses[static_cast<std::size_t>(near.members[r])];
      if (maps[r].empty()) maps[r] = SharedMapping::open(address, bytes);
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
    site.fetches = site_.fetches;
    site.mpi_progress = site_.mpi_progress;
    site.channel = site_.channel;
    site.choice = site_.choice;
    for (const int member : group.members) {
      const auto m = static_cast<std::size_t>(member);
      site.hosts.push_back(site_.hosts[m]);
      if (site.channel) site.in_channel.push_back(site_.in_channel[m]);
    }
    std::shared_ptr<ProcessSpace> space;
    if (site_.shared_memory) {
      Sharing sharing;
      if (!group.empty()) {
        sharing = {site.neighbours(group.rank), group.members, site.wants_sharing(), site.fetches};
        for (int& member : sharing.neighbours.members) {
          member = group.members[static_cast<std::size_t>(member)];
        }
      }
      space = share_control(exchange("group"), world_size(), sharing);
    }
    if (group.empty()) return nullptr;
    if (!space && !site.channel && group.size() > 1) {
      fail_internal(cat("group of ", group.size()), "the system refuses more shared memory");
    }
    Place place = place_in(group, site_.hosts);
    place.progress_thread = (space && site.one_host()) || group.size() == 1 || site.mpi_progress;
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

std::optional<Way> chosen_way(const HostOptions& options) {
  if (options.way.empty()) return std::nullopt;
  const std::optional<Way> way = way_of(options.way);
  if (!way) fail_input("way", "\"", options.way, "\"; allowed: ", names_of_ways());
  return way;
}

// From the file that the user names, or the one found by default, which is a matter of speed alone.
CostModel read_costs(const HostOptions& options, const std::function<void(std::string)>& warn) {
  std::optional<std::string> named = options.tune_file;
  if (const char* variable = std::getenv("PEAL_TUNE"); variable != nullptr && !named) {
    named = variable;
  }
  if (named) return named->empty() ? CostModel() : read_tuning(*named).costs;
  const std::filesystem::path path = default_tuning_path();
  std::error_code none;
  if (path.empty() || !std::filesystem::exists(path, none)) return {};
  try {
    const Tuning tuning = read_tuning(path);
    for (const auto& on : {tuning.inside, tuning.between}) {
      if (!on || on->cpu == cpu_name()) continue;
      warn(cat(path.string(), ": fitted on ", on->cpu, ", not on ", cpu_name(),
               "; using built-in costs (peal bench collectives --tune fits others)"));
      return {};
    }
    return tuning.costs;
  } catch (const Error& error) {
    warn(cat(error.what(), "; using built-in costs"));
    return {};
  }
}

// Rank 0 reads for all.
CostModel agree_on_costs(MPI_Comm all, const HostOptions& options,
                         const std::function<void(std::string)>& warn) {
  struct {
    CostModel costs;
    Cause cause;
  } shared{};
  if (rank_in(all) == 0) {
    try {
      shared.costs = read_costs(options, warn);
    } catch (const Error& error) {
      shared.cause = make_cause(0, exit_code(error.kind()), error.where(), error.message());
    }
  }
  check(MPI_Bcast(&shared, sizeof shared, MPI_BYTE, 0, all), "exchange of costs");
  if (shared.cause.exit_code != 0) throw_cause(shared.cause);
  return shared.costs;
}

// `mpi_progress`: whether a thread of ours may call MPI.
std::unique_ptr<Communicator> make_root(MPI_Comm ranks, const HostOptions& options,
                                        bool mpi_progress) {
  OwnComm all, host;
  check(MPI_Comm_dup(ranks, &all.comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(all.comm, MPI_ERRORS_RETURN);
  const std::vector<std::string> names = names_in(all.comm);
  require_same_versions(all.comm, names);
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
  place.names = names;
  place.cores = cores_in(host.comm);
  place.deadline = options.deadline_seconds;
  if (options.warn) place.warn = options.warn;
  int host_number = place.rank;  // the first rank of the host
  check(MPI_Bcast(&host_number, 1, MPI_INT, 0, host.comm), "MPI_Bcast");
  if (options.ranks_per_host > 0) host_number = place.rank / options.ranks_per_host;
  Site site;
  site.choice = {agree_on_costs(all.comm, options, place.warn), chosen_way(options)};
  site.shared_memory = options.shared_memory;
  site.fetches = options.fetch;
  site.mpi_progress = mpi_progress;
  site.hosts = gather_from_all(exchange, n, host_number);
  const Group neighbours = site.neighbours(place.rank);
  place.cores.of_host = place.cores.of_host * neighbours.size() / place.local_size;
  place.local_rank = neighbours.rank;
  place.local_size = neighbours.size();
  Group world;
  world.rank = place.rank;
  for (int r = 0; r < n; ++r) world.members.push_back(r);
  std::shared_ptr<ProcessSpace> space;
  if (site.wants_sharing()) {
    space = share_control(exchange, n, {neighbours, world.members, /*wanted=*/true, site.fetches});
    if (!space && place.rank == 0) {
      place.warn("the ranks of a host cannot share memory (memfd, /proc/PID/fd); using MPI");
    }
  }
  if (n > 1 && !(space && site.one_host())) {
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
  // Open MPI over TCP otherwise lets the receiver fetch long messages, a round trip each, which
  // costs 5% of a 1 Gbit/s link. Who has set it knows better.
  ::setenv("OMPI_MCA_btl_tcp_flags", "1", /*overwrite=*/0);
  int granted = MPI_THREAD_SINGLE;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &granted), "MPI_Init_thread");
  if (granted < MPI_THREAD_SERIALIZED) {
    MPI_Finalize();
    fail_input("MPI", "this MPI library grants thread level ", granted, "; MPI_THREAD_SERIALIZED (",
               MPI_THREAD_SERIALIZED, ") is needed: use one that was built with thread support");
  }
  if (!fence_of_slurm()) {
    throw Error(ErrorKind::peer, "PMIx", "not all ranks have come; see the logs of slurmd");
  }
}

MpiSession::~MpiSession() {
  fence_of_slurm();
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
  // A launcher kills the other ranks when one fails: time for them to say why first. Slurm does a
  // second after it has lost one, so that this rank, too, has to be quick to end with its own code.
  const char* job = std::getenv("PMIX_NAMESPACE");
  const bool slurm = job != nullptr && std::string_view(job).starts_with("slurm.");
  if (code != 0) std::this_thread::sleep_for(std::chrono::milliseconds(slurm ? 300 : 1000));
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
