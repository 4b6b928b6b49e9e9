/* Communicators among the ranks of an MPI communicator that a host program brings: the one header
 * of Peal that shows mpi.h. For C++20 and C99; either language sees its own function. */
#pragma once

#include <mpi.h>

#include "comm/peal.h"

#ifdef __cplusplus
#include <memory>

#include "comm/communicator.h"

namespace peal {

// Collective over `ranks`, an intra-communicator of a program that has called MPI_Init; the program
// keeps it and may free it afterwards. Peal's messages run on duplicates, so the program's own
// traffic goes on beside them. Free the result, and all that was split from it, before
// MPI_Finalize.
//
// Thread level: where all ranks share a host Peal makes no MPI call after this one, and any level
// will do. Between hosts it calls MPI from a thread of its own under MPI_THREAD_MULTIPLE. Below
// that it only does inside the program's calls of wait(), done() (which then blocks until the call
// has ended) and those that find 64 calls waiting: nothing overlaps, ranks must wait for calls in
// the same order over all their groups, and one warning says so. Below MPI_THREAD_SERIALIZED all
// calls must come from the thread that called MPI_Init.
//
// When a call has failed, the program prints what the Error says, destroys its communicators or
// does not, and ends by MpiSession::exit_process(exit_code(error.kind())), in C
// peal_exit_process(status), whoever called MPI_Init: MPI_Finalize waits for ranks that may be
// gone, and MPI_Abort ends the others before they have said why. An error of its own it tells them
// first, by abort().
//
// Under srun: Slurm 22.05 lets MPI_Init return before the ranks of other hosts have come, and Open
// MPI ends with a segmentation fault when a message reaches a rank that is still inside it. Where a
// program calls MPI_Init itself, SLURM_PMIX_FENCE=ring in the environment of srun prevents that.
//
// Throws Error(input) when MPI is not initialised or is finalised, or `ranks` is MPI_COMM_NULL or
// an inter-communicator; Error(peer) when MPI fails; Error(numeric), on every rank, that names the
// rank whose Peal or MPI library is of another version.
std::unique_ptr<Communicator> make_communicator(MPI_Comm ranks, const HostOptions& options = {});

}  // namespace peal

extern "C" {
#endif

/* The same for C; `options` may be NULL. On success *out is to be freed by peal_comm_free. */
peal_status peal_comm_create(MPI_Comm ranks, const peal_comm_options* options, peal_comm** out);

/* MpiSession::exit_process for C; does not return. */
void peal_exit_process(int code);

#ifdef __cplusplus
}
#endif
