#include "comm/c_api.h"
#include "comm/mpi_comm.h"

peal_status peal_comm_create(MPI_Comm ranks, const peal_comm_options* options, peal_comm** out) {
  using namespace peal::c_api;
  return guarded([&] {
    require(out, "out");
    *out = handle_of(peal::make_communicator(ranks, host_options(options)));
  });
}

void peal_exit_process(int code) {
  peal::MpiSession::exit_process(code);
}
