// Ranks as threads of one process, and the world of one.
#include <exception>
#include <thread>

#include "comm/queue.h"
#include "comm/shared.h"

namespace peal {
namespace {

std::unique_ptr<Communicator> make_local(std::shared_ptr<SharedSpace> space, int rank,
                                         const std::string& backend) {
  QueuedCommunicator::Place place;
  place.rank = place.local_rank = rank;
  place.local_size = space->ranks();
  place.backend = backend;
  for (int r = 0; r < space->ranks(); ++r) place.names.push_back(cat("rank ", r));
  place.cores = cores_of_this_process();
  auto comm = std::make_unique<QueuedCommunicator>(std::move(place));
  comm->start(std::make_unique<SharedTransport>(std::move(space), comm->watch()));
  return comm;
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
  const auto space = make_thread_space(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  const auto one_rank = [&](int rank) {
    const auto comm = make_local(space, rank, "local");
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
  return make_local(make_thread_space(1), 0, "single");
}

}  // namespace peal
