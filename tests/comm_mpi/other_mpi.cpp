// Loaded before Open MPI, this answers for it: a rank whose MPI library is of another version.
#include <mpi.h>

#include <cstring>

extern "C" int MPI_Get_library_version(char* version, int* length) {
  std::strcpy(version, "Open MPI v9.9.9, package: another");
  *length = static_cast<int>(std::strlen(version));
  return MPI_SUCCESS;
}
