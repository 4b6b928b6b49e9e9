// Ranks as MPI processes: shared memory when all are on one host, MPI otherwise.
#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "comm/mpi_transport.h"
#include "comm/process_space.h"
#include "comm/queue.h"
#include "core/base/log.h"

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

// Null when the system refuses to share memory between the ranks of this host.
std::shared_ptr<ProcessSpace> share_control(MPI_Comm host) {
  const int ranks = size_of(host), rank = rank_in(host);
  const std::size_t bytes = SharedSpace::bytes(ranks);
  SharedMapping mapping;
  if (rank == 0) mapping = SharedMapping::create(bytes);
  SharedMapping::Address address = mapping.address();
  check(MPI_Bcast(&address, sizeof address, MPI_BYTE, 0, host), "set-up of shared memory");
  if (rank != 0) mapping = SharedMapping::open(address, bytes);
  int mine = mapping.empty() ? 0 : 1, all = 0;
  std::shared_ptr<ProcessSpace> space;
  if (rank == 0 && mine == 1) {
    space = std::make_shared<ProcessSpace>(std::move(mapping), ranks, rank, /*construct=*/true);
  }
  check(MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, host), "set-up of shared memory");
  if (all == 0) return nullptr;
  if (rank != 0) {
    space = std::make_shared<ProcessSpace>(std::move(mapping), ranks, rank, /*construct=*/false);
  }
  space->state(rank).process = ::getpid();
  check(MPI_Barrier(host), "set-up of shared memory");
  return space;
}

class SharedHostCommunicator final : public QueuedCommunicator {
 public:
  SharedHostCommunicator(Place place, std::shared_ptr<ProcessSpace> space)
      : QueuedCommunicator(std::move(place)), space_(std::move(space)) {
    start(std::make_unique<SharedTransport>(space_, watch()));
  }

  Buffer allocate(std::size_t bytes) override {
    if (bytes == 0) return Buffer(0);
    std::vector<SharedMapping> maps(static_cast<std::size_t>(world_size()));
    SharedMapping& mine = maps[static_cast<std::size_t>(rank())];
    mine = SharedMapping::create(bytes);
    const auto addresses = gather("allocate", mine.address());
    bool complete = true;
    for (std::size_t r = 0; r < maps.size(); ++r) {
      if (maps[r].empty()) maps[r] = SharedMapping::open(addresses[r], bytes);
      complete = complete && !maps[r].empty();
    }
    for (const std::int64_t other : gather<std::int64_t>("allocated", complete ? 1 : 0)) {
      complete = complete && other == 1;
    }
    if (!complete) return Buffer(bytes);  // private memory works too, through bounce buffers
    mine.close_file();
    std::byte* data = mine.data();
    const std::int64_t region = space_->add(std::move(maps), bytes);
    return Buffer(data, bytes, kCpu, [space = space_, region] { space->remove(region); });
  }

 private:
  template <typename T>
  std::vector<T> gather(std::string_view name, T mine) {
    std::vector<T> all(static_cast<std::size_t>(world_size()));
    constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
    Stream s;
    wait(s, all_gather(s, name, {&mine, {kBytes}, DType::u8},
                       {all.data(), {kBytes * world_size()}, DType::u8}));
    return all;
  }

  std::shared_ptr<ProcessSpace> space_;
};

}  // namespace

MpiSession::MpiSession() {
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
  MPI_Comm host = MPI_COMM_NULL;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
        "MPI_Comm_split_type");
  QueuedCommunicator::Place place;
  place.rank = rank_in(MPI_COMM_WORLD);
  place.local_rank = rank_in(host);
  place.local_size = size_of(host);
  place.backend = "host";
  place.names = names_in(MPI_COMM_WORLD);
  place.cores = cores_in(host);
  place.deadline = options.deadline_seconds;
  if (const char* flight = std::getenv("PEAL_FLIGHT_DIRECTORY")) place.flight_directory = flight;
  std::shared_ptr<ProcessSpace> space;
  const bool one_host = place.local_size == size_of(MPI_COMM_WORLD);
  if (one_host && options.shared_memory && place.local_size > 1) {
    space = share_control(host);
    if (!space && place.rank == 0) {
      log::warn("the ranks of this host cannot share memory (memfd, /proc/PID/fd); using MPI");
    }
  }
  MPI_Comm_free(&host);
  if (space) return std::make_unique<SharedHostCommunicator>(std::move(place), std::move(space));
  const bool alone = place.names.size() == 1;
  auto comm = std::make_unique<QueuedCommunicator>(std::move(place));
  if (alone) {
    comm->start(std::make_unique<SharedTransport>(make_thread_space(1), comm->watch()));
  } else {
    comm->start(make_mpi_transport(comm->watch()));
  }
  return comm;
}

}  // namespace peal
