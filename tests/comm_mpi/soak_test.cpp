// Small calls of every kind by the hundred thousand, with groups made, used and freed and memory
// allocated and released: what this process holds must not grow from a tenth of the run to its end.
//   soak_test shared|mpi soak CALLS
// Ends with 0 when this rank saw what it should; rank 0 prints a line each tenth.
//
// Two things look like a leak and are none. libc's caches of freed blocks (one for each thread, up
// to 230 KiB) count as used and fill up slowly: they are switched off. Open MPI (pml/ob1) takes a
// block for a message that comes before it is asked for and keeps it for the next one of that size,
// so that it holds as many as ever came early at once: in the first tenth ranks come late on
// purpose, which takes it there.
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/comm/contract_types.h"
#include "tests/comm_mpi/any_call.h"

namespace peal {
namespace {

using contract::require;

// What this process holds. The heap is what was asked of malloc and not freed, MPI's included;
// resident is what is this process's own: pages of shared memory count when they are first touched,
// which may be late, and as mapped they count all the time.
struct Held {
  std::int64_t heap = 0, resident = 0, mapped = 0, mappings = 0, files = 0;
};

Held held() {
  Held now;
  // What malloc keeps for later use varies by itself.
  ::malloc_trim(0);
  const struct mallinfo2 heap = ::mallinfo2();
  now.heap = static_cast<std::int64_t>(heap.uordblks + heap.hblkhd);
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmSize:") status >> now.mapped;
    if (word == "RssAnon:") status >> now.resident;
  }
  now.mapped *= 1024;
  now.resident *= 1024;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) ++now.mappings;
  std::filesystem::directory_iterator files("/proc/self/fd");
  now.files = std::distance(begin(files), end(files));
  return now;
}

void print(std::int64_t calls, const Held& now) {
  std::printf(
      "%9lld calls: heap %.1f KiB, resident %.1f KiB, mapped %.1f KiB in %lld, %lld files\n",
      static_cast<long long>(calls), static_cast<double>(now.heap) / 1024,
      static_cast<double>(now.resident) / 1024, static_cast<double>(now.mapped) / 1024,
      static_cast<long long>(now.mappings), static_cast<long long>(now.files));
  std::fflush(stdout);
}

class Soak {
 public:
  explicit Soak(Communicator& comm) : comm_(comm), world_(comm, 7, 300) {}

  void run(std::int64_t calls) {
    Held before = held();  // the look itself takes memory the first time
    if (comm_.rank() == 0) print(0, before);
    for (std::int64_t i = 0; i <= calls; ++i) {
      if (calls / 10 > 0 && i > 0 && i % (calls / 10) == 0) {
        Stream s;
        comm_.wait(s, comm_.barrier(s, "all have come as far"));
        const Held now = held();
        if (comm_.rank() == 0) print(i, now);
        if (i == calls / 10) before = now;
        if (i == calls) compare(before, now);
      }
      if (i < calls / 10) come_late(static_cast<std::uint64_t>(i));
      call(static_cast<std::uint64_t>(i));
    }
  }

 private:
  // Some rank in half of the calls, so that the others' messages wait for it.
  void come_late(std::uint64_t i) {
    const std::uint64_t random = mix64(~i);
    const auto late = static_cast<int>(random / 2 % static_cast<std::uint64_t>(comm_.world_size()));
    if (random % 2 == 0 && comm_.rank() == late) {
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  }

  void call(std::uint64_t i) {
    const std::uint64_t random = mix64(i);
    if (random % 64 == 0) return group(i);
    if (random % 64 == 1) comm_.allocate(static_cast<std::size_t>(random / 64 % 100'000));
    const auto& kinds = AnyCall::kinds();
    const int n = comm_.world_size();
    const int a = static_cast<int>(random / 64 % static_cast<std::uint64_t>(n));
    world_.set_pair(a, (a + 1) % n);
    std::size_t kind = random / 4096 % kinds.size();
    // Groups come by themselves; a pair takes two.
    while (kinds[kind] == "split" || kinds[kind] == "make_group" ||
           (n == 1 && kinds[kind] == "send_recv")) {
      kind = (kind + 1) % kinds.size();
    }
    world_.make(kinds[kind], i);
  }

  // One of all ranks or of some, and one inside it.
  void group(std::uint64_t i) {
    const auto parts = static_cast<int>(i % 3) + 1;
    const auto outer = comm_.split(comm_.rank() % parts, -comm_.rank());
    AnyCall calls(*outer, i, 64);
    calls.make("all_reduce", i);
    const auto inner = outer->make_group(std::vector{outer->world_size() - 1});
    calls.make("all_gather", i + 1);
    if (outer->world_size() > 1) calls.make("send_recv", i + 2);
    if (inner) AnyCall(*inner, i, 64).make("ragged", i);
  }

  // Nothing: no file, no mapping, and of memory not more than four pages: what comes early once
  // more than in the first tenth, and what lies between other blocks.
  void compare(const Held& before, const Held& after) {
    require(after.files == before.files, before.files, " files were open, now ", after.files);
    require(after.mappings <= before.mappings + 1, before.mappings, " mappings, now ",
            after.mappings);
    require(after.heap - before.heap <= kNoise, "the heap has grown by ", after.heap - before.heap);
    require(after.mapped - before.mapped <= kNoise, "mapped memory has grown by ",
            after.mapped - before.mapped);
    require(after.resident - before.resident <= kNoise, "resident memory has grown by ",
            after.resident - before.resident);
  }

  static constexpr std::int64_t kNoise = 16 << 10;

  Communicator& comm_;
  AnyCall world_;
};

// What malloc maps and gives back must depend on nothing but what is held: one arena, which
// mallinfo2 knows whole, and large blocks always in mappings of their own.
void make_malloc_predictable() {
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_MMAP_THRESHOLD, 128 << 10);
  ::mallopt(M_TRIM_THRESHOLD, 128 << 10);
  ::mallopt(M_TOP_PAD, 0);  // else the heap grows by 128 KiB at a time
}

int run(const std::string& memory, std::int64_t calls) {
  make_malloc_predictable();
  MpiSession session;
  const auto comm = make_host_communicator({memory == "shared", 60});
  try {
    Soak(*comm).run(calls);
    if (comm->rank() == 0) {
      std::printf("passed: %s, %lld calls on %d\n", memory.c_str(), static_cast<long long>(calls),
                  comm->world_size());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", comm->rank_name(comm->rank()).c_str(), error.what());
    MpiSession::exit_process(1);
  }
  return 0;
}

}  // namespace
}  // namespace peal

int main(int count, char** words) {
  if (count != 4 || !peal::MpiSession::launched()) return 2;
  if (std::getenv("GLIBC_TUNABLES") == nullptr) {  // libc reads it before main
    ::setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1);
    ::execv("/proc/self/exe", words);
    return 2;
  }
  return peal::run(words[1], std::atoll(words[3]));
}
