// The contract on a real GPU: `ctest -L gpu`, in the list where CMake saw one.
//   gpu_test device|staged|nccl|late|abort RANKS     starts itself under mpirun
// Ends with 0 when all ranks saw what they should; fails where there is no GPU.
//
// Ranks share the GPUs that there are: NCCL takes them for ranks of different hosts when each has a
// NCCL_HOSTID of its own, and connects them over sockets.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "comm/device_comm.h"
#include "core/device/recording.h"
#include "tests/comm/contract_all.h"
#include "tests/comm/mirrored.h"

namespace peal {
namespace {

using contract::require;

Device device_of(const Communicator& host) {
  return {Device::Kind::cuda, host.local_rank() % cuda_device_count()};
}

// Streams, events, pinned memory: numbers go to the device and back.
void run_device(Communicator& host) {
  const Device device = device_of(host);
  const std::size_t count = 1 << 20, bytes = count * sizeof(std::uint32_t);
  Buffer there(bytes, device), from = pinned(Buffer(bytes), device),
                               to = pinned(Buffer(bytes), device);
  Stream first(device), second(device);
  copy(first, from.data(), there.data(), bytes);
  first.synchronize();
  for (std::size_t i = 0; i < bytes; ++i) require(from.data()[i] == std::byte{0}, "not zeroed");
  auto* numbers = reinterpret_cast<std::uint32_t*>(from.data());
  for (std::size_t i = 0; i < count; ++i) numbers[i] = static_cast<std::uint32_t>(i * 2654435761u);
  Event arrived(device), back(device);
  require(arrived.done(), "an event that was never recorded is done");
  copy(first, there.data(), from.data(), bytes);
  arrived.record(first);
  second.wait(arrived);
  copy(second, to.data(), there.data(), bytes);
  back.record(second);
  back.synchronize();
  require(back.done() && arrived.done(), "both have ended");
  require(std::memcmp(from.data(), to.data(), bytes) == 0, "numbers came back different");
  Stream borrowed = Stream::borrow(first.handle(), device);
  copy(borrowed, there.data(), to.data(), bytes);
  borrowed.synchronize();
}

// A recording: nothing is done while it is made, all of it at each replay, in the stream's order,
// while another thread allocates; and a stream that could not record goes on.
void run_recording(Communicator& host) {
  const Device device = device_of(host);
  const std::size_t bytes = 1 << 16;
  Buffer a(bytes, device), b(bytes, device), c(bytes, device), here(bytes);
  Stream s(device), other(device);
  std::atomic<bool> done{false};
  std::thread beside([&] {
    while (!done) {
      const Buffer more(1 << 20, device);
      const Buffer page_locked = pinned(Buffer(1 << 16), device);
    }
  });
  const auto fill = [&](const Buffer& there, int value) {
    std::memset(here.data(), value, bytes);
    copy(s, there.data(), here.data(), bytes);
    s.synchronize();
  };
  const auto holds = [&](const Buffer& there, int value) {
    copy(s, here.data(), there.data(), bytes);
    s.synchronize();
    for (std::size_t i = 0; i < bytes; ++i)
      require(here.data()[i] == static_cast<std::byte>(value), "another value after a replay");
  };
  std::vector<Recording> kept;
  for (int i = 0; i < 50; ++i) {
    kept.emplace_back(s, "copies", [&](Stream& on) {
      copy(on, b.data(), a.data(), bytes);
      copy(on, c.data(), b.data(), bytes);
    });
  }
  done = true;
  beside.join();
  holds(c, 0);
  for (int value = 1; value < 4; ++value) {
    fill(a, value);
    kept[static_cast<std::size_t>(value)].replay(s);
    holds(c, value);
  }
  fill(a, 9);
  kept[0].replay(s);
  kept.clear();  // while it may be under way
  holds(c, 9);
  const std::string text = contract::error_of(ErrorKind::internal, [&] {
    const Recording refused(s, "a wait", [&](Stream& on) { on.synchronize(); });
  });
  contract::require_text(text, "cudaStreamSynchronize");
  fill(a, 5);
  Recording(s, "after", [&](Stream& on) { copy(on, c.data(), a.data(), bytes); }).replay(s);
  holds(c, 5);
}

std::unique_ptr<Communicator> mirrored(Communicator& host, bool nccl) {
  const Device device = device_of(host);
  auto comm = nccl ? make_nccl_communicator(host, device)
                   : make_staged_communicator(host, device, {256 << 10});
  require(comm->backend() == (nccl ? "nccl" : "staged"), "backend");
  return std::make_unique<Mirrored>(std::move(comm), device);
}

void run_contract(Communicator& host, bool nccl) {
  const auto comm = mirrored(host, nccl);
  contract::few_counts = nccl && host.world_size() > cuda_device_count();
  const auto start = std::chrono::steady_clock::now();
  contract::everything(*comm, [&](std::string_view part) {
    if (host.rank() > 0) return;
    const std::chrono::duration<double> since = std::chrono::steady_clock::now() - start;
    std::printf("%6.1f s  %.*s\n", since.count(), static_cast<int>(part.size()), part.data());
    std::fflush(stdout);
  });
  contract::split_orders_by_key(*comm);
  contract::a_list_makes_a_group(*comm);
  contract::groups_work_at_once(*comm);
}

// Rank 1 does not come to a call after those that are compared.
void run_late(Communicator& host) {
  if (host.world_size() < 2) return;
  const auto comm = mirrored(host, /*nccl=*/true);
  Stream s;
  std::vector<float> x(1009, 1);
  for (int i = 0; i < 300; ++i) {
    comm->wait(s, comm->all_reduce(s, cat("call ", i), contract::view(x), contract::view(x),
                                   ReduceOp::max));
  }
  comm->set_deadline(1);
  const std::string text = contract::error_of(ErrorKind::peer, [&] {
    if (host.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::seconds(8));
      return comm->wait(s, comm->barrier(s, "too late"));
    }
    const Request request = comm->barrier(s, "late");
    while (!comm->done(request)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  contract::require_text(text, "s in barrier \"late\"; rank 1 last finished");
}

// Rank 1 gives up while the others' call is on the device.
void run_abort(Communicator& host) {
  if (host.world_size() < 2) return;
  const auto comm = mirrored(host, /*nccl=*/true);
  Stream s;
  for (int i = 0; i < 300; ++i) comm->wait(s, comm->barrier(s, cat("call ", i)));
  const std::string text = contract::error_of(ErrorKind::input, [&] {
    if (host.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      comm->abort("train.idx: record 7 is cut short", 2);
      return comm->wait(s, comm->barrier(s, "after"));
    }
    const Request request = comm->barrier(s, "never");
    while (!comm->done(request)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  contract::require_text(text, "train.idx: record 7 is cut short");
}

int run(const std::string& what) {
  const std::map<std::string, std::function<void(Communicator&)>> tests{
      {"device",
       [](Communicator& host) {
         run_device(host);
         run_recording(host);
       }},
      {"staged", [](Communicator& host) { run_contract(host, false); }},
      {"nccl", [](Communicator& host) { run_contract(host, true); }},
      {"late", run_late},
      {"abort", run_abort}};
  MpiSession session;
  const auto host = make_host_communicator({true, 120});
  try {
    tests.at(what)(*host);
    if (host->rank() == 0) std::printf("passed: %s on %d\n", what.c_str(), host->world_size());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", host->rank_name(host->rank()).c_str(), error.what());
    MpiSession::exit_process(1);
  }
  return 0;
}

// Replaces this process by mpirun; returns only when that cannot be started.
int start_ranks(const char* program, const char* what, const char* ranks) {
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
  ::execlp("mpirun", "mpirun", "--oversubscribe", "--mca", "btl_vader_single_copy_mechanism",
           "none", "-np", ranks, program, what, ranks, nullptr);
  std::perror("mpirun");
  return 1;
}

}  // namespace
}  // namespace peal

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s device|staged|nccl|late|abort RANKS\n", arguments[0]);
    return 2;
  }
  if (const char* rank = std::getenv("OMPI_COMM_WORLD_RANK")) {
    ::setenv("NCCL_HOSTID", peal::cat("rank-", rank).c_str(), 1);
    return peal::run(arguments[1]);
  }
  try {
    peal::require_device({peal::Device::Kind::cuda, 0});
  } catch (const peal::Error& error) {
    std::fprintf(stderr, "cannot run: %s\n", error.what());
    return 1;
  }
  return peal::start_ranks(arguments[0], arguments[1], arguments[2]);
}
