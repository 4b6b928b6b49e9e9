#include "comm/mpi_peer.h"

#include <mpi.h>

#include "core/base/error.h"

namespace peal {
namespace {

void check(int status, const char* what) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw Error(ErrorKind::peer, what, std::string(text, static_cast<std::size_t>(length)));
}

MPI_Datatype type_of(const Tensor& x) {
  switch (x.dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i64:
      return MPI_INT64_T;
    case DType::u8:
      return MPI_UINT8_T;
    default:
      fail_input("MPI", "dtype ", name_of(x.dtype), "; allowed: f32, f64, i32, i64, u8");
  }
}

int count_of(const Tensor& x) {
  if (x.numel() > MpiPeer::kMostElements) {
    fail_input("MPI", x.numel(), " elements; allowed: ", MpiPeer::kMostElements);
  }
  return static_cast<int>(x.numel());
}

}  // namespace

struct MpiPeer::State {
  // Never freed: that is collective, and a peer may be gone.
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0;

  // Whether `part` is this rank's part of `whole`.
  bool is_part(const Tensor& part, const Tensor& whole) const {
    return part.as<std::byte>() ==
           whole.as<std::byte>() + static_cast<std::size_t>(rank) * part.bytes();
  }
};

MpiPeer::MpiPeer() : state_(std::make_unique<State>()) {
  check(MPI_Comm_dup(MPI_COMM_WORLD, &state_->comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(state_->comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(state_->comm, &state_->rank);
}

MpiPeer::~MpiPeer() = default;

void MpiPeer::all_reduce(const Tensor& x, const Tensor& y) {
  const void* from = x.data == y.data ? MPI_IN_PLACE : x.data;
  check(MPI_Allreduce(from, y.data, count_of(y), type_of(y), MPI_SUM, state_->comm),
        "MPI_Allreduce");
}

void MpiPeer::reduce_scatter(const Tensor& x, const Tensor& y) {
  // In place the result is at the begin of x, wherever this rank's part is.
  const bool in_place = state_->is_part(y, x);
  check(MPI_Reduce_scatter_block(in_place ? MPI_IN_PLACE : x.data, in_place ? x.data : y.data,
                                 count_of(y), type_of(y), MPI_SUM, state_->comm),
        "MPI_Reduce_scatter_block");
}

void MpiPeer::all_gather(const Tensor& x, const Tensor& y) {
  const void* from = state_->is_part(x, y) ? MPI_IN_PLACE : x.data;
  check(MPI_Allgather(from, count_of(x), type_of(x), y.data, count_of(x), type_of(y), state_->comm),
        "MPI_Allgather");
}

void MpiPeer::broadcast(const Tensor& x, int root) {
  check(MPI_Bcast(x.data, count_of(x), type_of(x), root, state_->comm), "MPI_Bcast");
}

std::string MpiPeer::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, static_cast<std::size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace peal
