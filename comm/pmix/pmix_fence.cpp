// The copy of PMIx that Open MPI has loaded and initialised is asked: there is one in a process.
#include "comm/pmix_fence.h"

#include <dlfcn.h>
#include <mpi.h>
#include <pmix.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace peal {
namespace {

constexpr useconds_t kFenceNap = 100;  // microseconds, as Open MPI naps in its own fences

bool started_by_slurm() {
  const char* job = std::getenv("PMIX_NAMESPACE");
  return job != nullptr && std::string_view(job).starts_with("slurm.");
}

struct Arrival {
  std::atomic<bool> all{false};
  std::atomic<int> status{PMIX_SUCCESS};
};

void arrived(pmix_status_t status, void* data) {
  auto& arrival = *static_cast<Arrival*>(data);
  arrival.status.store(status, std::memory_order_relaxed);
  arrival.all.store(true, std::memory_order_release);
}

void make_progress() {
  int there = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_SELF, &there, MPI_STATUS_IGNORE);
}

}  // namespace

bool fence_of_slurm() {
  if (!started_by_slurm()) return true;
  void* const library = ::dlopen("libpmix.so.2", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return true;  // this MPI has a PMIx of its own
  const auto fence = reinterpret_cast<decltype(&PMIx_Fence_nb)>(::dlsym(library, "PMIx_Fence_nb"));
  if (fence == nullptr) return true;
  pmix_info_t collect{};
  std::strncpy(collect.key, PMIX_COLLECT_DATA, sizeof collect.key - 1);
  collect.value.type = PMIX_BOOL;
  collect.value.data.flag = true;
  Arrival arrival;
  const int begun = fence(/*procs: all*/ nullptr, 0, &collect, 1, arrived, &arrival);
  if (begun == PMIX_OPERATION_SUCCEEDED) return true;
  if (begun != PMIX_SUCCESS) return false;
  while (!arrival.all.load(std::memory_order_acquire)) {
    make_progress();
    ::usleep(kFenceNap);
  }
  return arrival.status.load(std::memory_order_relaxed) == PMIX_SUCCESS;
}

}  // namespace peal
