// A host program that initialises MPI itself and has traffic of its own: run under mpirun by
// tests/CMakeLists.txt.
//   embed_test shared|mpi single|funneled|serialized|multiple
// Ends with 0 when this rank saw what it should.
#include <mpi.h>

#include <cstdio>
#include <map>

#include "comm/mpi_comm.h"
#include "tests/comm/group_contract.h"

namespace peal {
namespace {

using contract::error_of;
using contract::require;
using contract::require_text;

int number_in(MPI_Comm comm, int (*get)(MPI_Comm, int*)) {
  int number = 0;
  get(comm, &number);
  return number;
}

// Messages of the program that would be mistaken for Peal's, or Peal's for them, if both used one
// communicator: any source, any tag, in flight over Peal's calls.
void own_traffic_goes_on(Communicator& comm) {
  const int n = number_in(MPI_COMM_WORLD, MPI_Comm_size),
            r = number_in(MPI_COMM_WORLD, MPI_Comm_rank);
  Stream s;
  for (int round = 0; round < 50; ++round) {
    std::vector<int> in(64, -1), out(64, 1000 * round + r);
    MPI_Request requests[2];
    MPI_Irecv(in.data(), 64, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &requests[0]);
    std::vector<float> x(5000), y(x);
    contract::fill<float>(contract::view(x), comm.rank());
    const Request sum =
        comm.all_reduce(s, "gradients", contract::view(x), contract::view(y), ReduceOp::sum);
    MPI_Isend(out.data(), 64, MPI_INT, (r + 1) % n, round % 3, MPI_COMM_WORLD, &requests[1]);
    int mine = r, total = 0;
    MPI_Allreduce(&mine, &total, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    comm.wait(s, sum);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    require(total == n * (n - 1) / 2, "the program's own sum is ", total);
    require(in[63] == 1000 * round + (r + n - 1) % n, "the program's own message is ", in[63]);
    for (std::int64_t i = 0; i < 5000; ++i) {
      const auto want = contract::expected<float>(ReduceOp::sum, comm.world_size(), i);
      require(y[static_cast<std::size_t>(i)] == want, "element ", i);
    }
  }
}

// A communicator of the program's own, freed at once: half of the ranks, backwards.
void a_part_of_the_program(const HostOptions& options) {
  const int r = number_in(MPI_COMM_WORLD, MPI_Comm_rank);
  MPI_Comm part = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, r % 2, -r, &part);
  const auto comm = make_communicator(part, options);
  require(comm->world_size() == number_in(part, MPI_Comm_size), "size of the part");
  require(comm->rank() == number_in(part, MPI_Comm_rank), "rank in the part");
  MPI_Comm_free(&part);
  contract::all_reduce<float>(*comm);
  own_traffic_goes_on(*comm);
}

void wrong_input_is_told() {
  require_text(error_of(ErrorKind::input, [] { make_communicator(MPI_COMM_NULL); }),
               "MPI_COMM_NULL");
  HostOptions options;
  options.deadline_seconds = -1;
  require_text(error_of(ErrorKind::input, [&] { make_communicator(MPI_COMM_WORLD, options); }),
               "deadline -1 s");
  require_text(error_of(ErrorKind::input, [] { MpiSession session; }), "make_communicator");
  const int n = number_in(MPI_COMM_WORLD, MPI_Comm_size),
            r = number_in(MPI_COMM_WORLD, MPI_Comm_rank);
  if (n < 2) return;
  MPI_Comm half = MPI_COMM_NULL, between = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, r == 0 ? 0 : 1, r, &half);
  MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, r == 0 ? 1 : 0, 5, &between);
  require_text(error_of(ErrorKind::input, [&] { make_communicator(between); }),
               "inter-communicator");
  MPI_Comm_free(&between);
  MPI_Comm_free(&half);
}

void run(bool shared_memory, int level) {
  std::vector<std::string> warnings;
  HostOptions options;
  options.shared_memory = shared_memory;
  options.deadline_seconds = 60;
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  const auto comm = make_communicator(MPI_COMM_WORLD, options);
  const bool warned =
      !shared_memory && level < MPI_THREAD_MULTIPLE && comm->rank() == 0 && comm->world_size() > 1;
  require(warnings.size() == (warned ? 1 : 0), warnings.size(), " warnings");
  if (warned) require_text(warnings[0], "MPI_THREAD_MULTIPLE");
  own_traffic_goes_on(*comm);
  contract::all_reduce<float>(*comm);
  contract::calls_run_in_order(*comm);
  contract::polling_makes_progress(*comm);
  contract::buckets_match(*comm, Reduction::rank_invariant, 8);
  contract::split_orders_by_key(*comm);
  // Where wait() runs the calls, ranks that wait in different orders wait for each other.
  if (shared_memory || level == MPI_THREAD_MULTIPLE) {
    contract::groups_work_at_once(*comm);
  }
  a_part_of_the_program(options);
  wrong_input_is_told();
}

int main_of(const std::string& memory, const std::string& level) {
  const std::map<std::string, int> levels{{"single", MPI_THREAD_SINGLE},
                                          {"funneled", MPI_THREAD_FUNNELED},
                                          {"serialized", MPI_THREAD_SERIALIZED},
                                          {"multiple", MPI_THREAD_MULTIPLE}};
  int granted = -1;
  try {
    require_text(error_of(ErrorKind::input, [] { make_communicator(MPI_COMM_WORLD); }),
                 "MPI is not initialised");
    MPI_Init_thread(nullptr, nullptr, levels.at(level), &granted);
    require(granted == levels.at(level), "MPI grants level ", granted);
    run(memory == "shared", granted);
    MPI_Finalize();
    require_text(error_of(ErrorKind::input, [] { make_communicator(MPI_COMM_WORLD); }),
                 "finalised");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "embed_test %s %s: %s\n", memory.c_str(), level.c_str(), error.what());
    MpiSession::exit_process(1);
  }
  return 0;
}

}  // namespace
}  // namespace peal

int main(int count, char** arguments) {
  if (count != 3) return 2;
  return peal::main_of(arguments[1], arguments[2]);
}
