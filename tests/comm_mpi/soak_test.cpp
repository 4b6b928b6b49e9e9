// Small calls of every kind by the hundred thousand, with groups made, used and freed and memory
// allocated and released: what this process holds must not grow from a tenth of the run to its end.
//   soak_test shared|mpi soak CALLS
// Ends with 0 when this rank saw what it should; rank 0 prints a line each tenth.
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/comm/contract_types.h"
#include "tests/comm_mpi/any_call.h"

namespace peal {
namespace {

using contract::require;

// What this process holds. The heap is what was asked of malloc and not freed, MPI's included.
struct Held {
  std::int64_t heap = 0, resident = 0, mapped = 0, mappings = 0, files = 0;
};

Held held() {
  Held now;
  // What malloc keeps for later use varies by itself.
  ::malloc_trim(0);
  const struct mallinfo2 heap = ::mallinfo2();
  now.heap = static_cast<std::int64_t>(heap.uordblks + heap.hblkhd);
  std::ifstream("/proc/self/statm") >> now.mapped >> now.resident;
  now.mapped *= ::getpagesize();
  now.resident *= ::getpagesize();
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
  Soak(Communicator& comm, std::int64_t noise) : comm_(comm), noise_(noise), world_(comm, 7, 300) {}

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
      call(static_cast<std::uint64_t>(i));
    }
  }

 private:
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

  // Nothing: no file, no mapping, and of memory not more than what the allocators of libc and MPI
  // keep to themselves.
  void compare(const Held& before, const Held& after) {
    require(after.files == before.files, before.files, " files were open, now ", after.files);
    require(after.mappings <= before.mappings + 1, before.mappings, " mappings, now ",
            after.mappings);
    require(after.heap - before.heap <= noise_, "the heap has grown by ", after.heap - before.heap);
    require(after.mapped - before.mapped <= noise_, "mapped memory has grown by ",
            after.mapped - before.mapped);
    require(after.resident - before.resident <= noise_, "resident memory has grown by ",
            after.resident - before.resident);
  }

  Communicator& comm_;
  std::int64_t noise_;
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
    // Over MPI the heap grows by some tens of KiB, by more where ranks compete for cores; shared
    // memory shows none of it, but which part of MPI holds it is not known. The bound is 6 bytes a
    // call in the suite, and a third of one in a million calls.
    Soak(*comm, memory == "shared" ? 16 << 10 : 256 << 10).run(calls);
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
  return peal::run(words[1], std::atoll(words[3]));
}
