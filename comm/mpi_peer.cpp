#include "comm/mpi_peer.h"

#include <mpi.h>

#include <algorithm>
#include <array>

#include "comm/combine.h"
#include "core/base/error.h"

namespace peal {
namespace {

void check_call(int status, const char* what) {
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
    case DType::i8:
      return MPI_INT8_T;
    case DType::u8:
      return MPI_UINT8_T;
    case DType::boolean:
      return MPI_C_BOOL;
    case DType::f16:
    case DType::bf16:
      return MPI_UINT16_T;
  }
  fail_internal("MPI", "no such dtype");
}

template <DType dtype>
void add_halves(void* in, void* in_out, int* count, MPI_Datatype*) {
  constexpr std::size_t kBlock = 1024, kSize = sizeof(std::uint16_t);
  alignas(64) std::array<std::byte, kBlock * sizeof(float)> sum;
  const auto n = static_cast<std::size_t>(*count);
  for (std::size_t i = 0; i < n; i += kBlock) {
    const std::size_t some = std::min(kBlock, n - i);
    std::byte* to = static_cast<std::byte*>(in_out) + i * kSize;
    const std::byte* from = static_cast<const std::byte*>(in) + i * kSize;
    combine_of(dtype, false, false)(ReduceOp::sum, sum.data(), from, to, some);
    finish_of(dtype)(to, sum.data(), 1, some);
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
  MPI_Op add_f16 = MPI_OP_NULL, add_bf16 = MPI_OP_NULL;
  int rank = 0;

  MPI_Op sum_of(const Tensor& x) const {
    if (x.dtype == DType::f16) return add_f16;
    if (x.dtype == DType::bf16) return add_bf16;
    return x.dtype == DType::boolean ? MPI_LOR : MPI_SUM;
  }

  // Whether `part` is this rank's part of `whole`.
  bool is_part(const Tensor& part, const Tensor& whole) const {
    return part.as<std::byte>() ==
           whole.as<std::byte>() + static_cast<std::size_t>(rank) * part.bytes();
  }
};

MpiPeer::MpiPeer() : state_(std::make_unique<State>()) {
  check_call(MPI_Comm_dup(MPI_COMM_WORLD, &state_->comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(state_->comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(state_->comm, &state_->rank);
  check_call(MPI_Op_create(add_halves<DType::f16>, /*commute=*/1, &state_->add_f16),
             "MPI_Op_create");
  check_call(MPI_Op_create(add_halves<DType::bf16>, /*commute=*/1, &state_->add_bf16),
             "MPI_Op_create");
}

MpiPeer::~MpiPeer() = default;

void MpiPeer::all_reduce(const Tensor& x, const Tensor& y) {
  const void* from = x.data == y.data ? MPI_IN_PLACE : x.data;
  check_call(MPI_Allreduce(from, y.data, count_of(y), type_of(y), state_->sum_of(y), state_->comm),
             "MPI_Allreduce");
}

void MpiPeer::reduce_scatter(const Tensor& x, const Tensor& y) {
  // In place the result is at the begin of x, wherever this rank's part is.
  const bool in_place = state_->is_part(y, x);
  check_call(MPI_Reduce_scatter_block(in_place ? MPI_IN_PLACE : x.data, in_place ? x.data : y.data,
                                      count_of(y), type_of(y), state_->sum_of(y), state_->comm),
             "MPI_Reduce_scatter_block");
}

void MpiPeer::all_gather(const Tensor& x, const Tensor& y) {
  const void* from = state_->is_part(x, y) ? MPI_IN_PLACE : x.data;
  check_call(
      MPI_Allgather(from, count_of(x), type_of(x), y.data, count_of(x), type_of(y), state_->comm),
      "MPI_Allgather");
}

void MpiPeer::broadcast(const Tensor& x, int root) {
  check_call(MPI_Bcast(x.data, count_of(x), type_of(x), root, state_->comm), "MPI_Bcast");
}

void MpiPeer::reduce(const Tensor& x, const Tensor& y, int root) {
  const bool in_place = state_->rank == root && x.data == y.data;
  check_call(MPI_Reduce(in_place ? MPI_IN_PLACE : x.data, y.data, count_of(x), type_of(x),
                        state_->sum_of(x), root, state_->comm),
             "MPI_Reduce");
}

void MpiPeer::gather(const Tensor& x, const Tensor& y, int root) {
  const bool in_place = state_->rank == root && state_->is_part(x, y);
  check_call(MPI_Gather(in_place ? MPI_IN_PLACE : x.data, count_of(x), type_of(x), y.data,
                        count_of(x), type_of(x), root, state_->comm),
             "MPI_Gather");
}

void MpiPeer::scatter(const Tensor& x, const Tensor& y, int root) {
  const bool in_place = state_->rank == root && state_->is_part(y, x);
  check_call(MPI_Scatter(x.data, count_of(y), type_of(y), in_place ? MPI_IN_PLACE : y.data,
                         count_of(y), type_of(y), root, state_->comm),
             "MPI_Scatter");
}

void MpiPeer::all_to_all(const Tensor& x, const Tensor& y) {
  int ranks = 0;
  MPI_Comm_size(state_->comm, &ranks);
  const int count = count_of(x) / ranks;
  check_call(MPI_Alltoall(x.data, count, type_of(x), y.data, count, type_of(y), state_->comm),
             "MPI_Alltoall");
}

void MpiPeer::send(const Tensor& x, int to) {
  check_call(MPI_Send(x.data, count_of(x), type_of(x), to, 0, state_->comm), "MPI_Send");
}

void MpiPeer::recv(const Tensor& y, int from) {
  check_call(MPI_Recv(y.data, count_of(y), type_of(y), from, 0, state_->comm, MPI_STATUS_IGNORE),
             "MPI_Recv");
}

std::string MpiPeer::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, static_cast<std::size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace peal
