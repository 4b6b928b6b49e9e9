// A barrier of all ranks through what started them, without a message of MPI.
#pragma once

namespace peal {

// Under Slurm's PMIx, a barrier over the ranks that MPI_Init knows; elsewhere nothing. Collective,
// between MPI_Init and MPI_Finalize. MPI makes progress while it waits. False: PMIx says that it
// failed.
//
// Slurm 22.05 lets a fence that carries no data (its "tree") pass on one host before the ranks of
// others have come, and Open MPI's MPI_Init and MPI_Finalize each end with one. A rank that is
// ahead then sends to one that is still inside MPI_Init, which ends with a segmentation fault in
// mca_btl_tcp, or ends while another still waits for what it has sent. A fence that asks for data
// waits for all (its "ring"). A host program that calls MPI_Init itself is safe where
// SLURM_PMIX_FENCE=ring is in the environment of srun, or PMIxFence=ring in Slurm's mpi.conf.
bool fence_of_slurm();

}  // namespace peal
