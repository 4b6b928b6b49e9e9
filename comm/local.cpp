// Ranks as threads of one process, and the world of one.
#include <exception>
#include <map>
#include <thread>

#include "comm/queue.h"
#include "comm/shared.h"

namespace peal {
namespace {

// What the ranks of one communicator share, and the groups of them that are being made.
struct ThreadRanks {
  explicit ThreadRanks(int ranks) : space(make_thread_space(ranks)) {}

  // The first member to come makes it, the last takes it off the list.
  std::shared_ptr<ThreadRanks> take(const Group& group) {
    const std::lock_guard lock(mutex);
    const std::pair key(group.id, group.members[0]);
    Making& making = groups[key];
    if (!making.ranks) making.ranks = std::make_shared<ThreadRanks>(group.size());
    std::shared_ptr<ThreadRanks> ranks = making.ranks;
    if (++making.taken == group.size()) groups.erase(key);
    return ranks;
  }

  std::shared_ptr<SharedSpace> space;
  struct Making {
    std::shared_ptr<ThreadRanks> ranks;
    int taken = 0;
  };
  std::mutex mutex;
  std::map<std::pair<std::int64_t, int>, Making> groups;  // by id and first member
};

class LocalCommunicator final : public QueuedCommunicator {
 public:
  LocalCommunicator(Place place, std::shared_ptr<ThreadRanks> ranks)
      : QueuedCommunicator(std::move(place)), ranks_(std::move(ranks)) {
    start(std::make_unique<SharedTransport>(ranks_->space, watch(),
                                            most_mail_bytes(CostModel(), world_size())));
  }

 protected:
  std::unique_ptr<Communicator> make_group_communicator(const Group& group) override {
    if (group.empty()) return nullptr;
    const std::vector<int> hosts(static_cast<std::size_t>(world_size()), 0);
    return std::make_unique<LocalCommunicator>(place_in(group, hosts), ranks_->take(group));
  }

 private:
  std::shared_ptr<ThreadRanks> ranks_;
};

std::unique_ptr<Communicator> make_local(std::shared_ptr<ThreadRanks> ranks, int rank,
                                         const std::string& backend) {
  QueuedCommunicator::Place place;
  place.rank = place.local_rank = rank;
  place.local_size = ranks->space->ranks();
  place.backend = backend;
  for (int r = 0; r < place.local_size; ++r) place.names.push_back(cat("rank ", r));
  place.cores = cores_of_this_process();
  return std::make_unique<LocalCommunicator>(std::move(place), std::move(ranks));
}

// Why this rank failed, for its peers.
void abort_with(Communicator& comm, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    comm.abort(error.what(), exit_code(error.kind()));
  } catch (const std::exception& error) {
    comm.abort(error.what(), exit_code(ErrorKind::internal));
  } catch (...) {
    comm.abort("unknown exception", exit_code(ErrorKind::internal));
  }
}

}  // namespace

void run_local_ranks(int ranks, const std::function<void(Communicator&)>& run) {
  if (ranks < 1) fail_input("run_local_ranks", ranks, " ranks; at least 1 is needed");
  const auto shared = std::make_shared<ThreadRanks>(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  const auto one_rank = [&](int rank) {
    const auto comm = make_local(shared, rank, "local");
    try {
      run(*comm);
    } catch (...) {
      const std::exception_ptr failure = std::current_exception();
      {
        const std::lock_guard lock(mutex);
        if (!first) first = failure;
      }
      abort_with(*comm, failure);
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(one_rank, rank);
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

std::unique_ptr<Communicator> make_single_communicator() {
  return make_local(std::make_shared<ThreadRanks>(1), 0, "single");
}

}  // namespace peal
