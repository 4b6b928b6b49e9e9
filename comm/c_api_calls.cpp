// The calls of the C API.
#include <numeric>
#include <vector>

#include "comm/c_api.h"

namespace peal::c_api {
namespace {

static_assert(PEAL_BOOL == static_cast<int>(DType::boolean));
static_assert(PEAL_PRODUCT == static_cast<int>(ReduceOp::product));
static_assert(PEAL_ORDERED_TREE == static_cast<int>(Algorithm::ordered_tree));

// Of memory where the stream is.
Tensor view(const Stream& s, const void* data, std::int64_t count, peal_dtype dtype) {
  if (count < 0) fail_input("count", count, "; 0 or more is needed");
  return {const_cast<void*>(data), {count}, checked(dtype, DType::boolean, "dtype"), s.device()};
}

// Elements of an array with `count` for every rank.
std::int64_t for_all(const Communicator& comm, std::int64_t count) {
  std::int64_t total = 0;
  if (__builtin_mul_overflow(count, comm.world_size(), &total)) {
    fail_input("count", count, " for each of ", comm.world_size(), " ranks is too many");
  }
  return total;
}

// One count for every rank.
Counts counts_of(const Communicator& comm, const std::int64_t* counts, const char* name) {
  require(counts, name);
  return {counts, static_cast<std::size_t>(comm.world_size())};
}

std::int64_t sum(Counts counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

std::int64_t mine(const Communicator& comm, Counts counts) {
  return counts[static_cast<std::size_t>(comm.rank())];
}

ReduceOp op_of(peal_op op) {
  return checked(op, ReduceOp::product, "op");
}

// Every collective: start(communicator, stream), and a wait when the caller wants no request.
template <typename Start>
peal_status collective(peal_comm* handle, const char* name, peal_request* request,
                       const Start& start) {
  return guarded([&] {
    Communicator& comm = comm_of(handle);
    require(name, "name");
    Stream& s = stream_of(handle);
    const Request started = start(comm, s);
    if (request != nullptr) {
      *request = started.ticket();
    } else {
      comm.wait(s, started);
    }
  });
}

}  // namespace
}  // namespace peal::c_api

using namespace peal;
using namespace peal::c_api;

peal_status peal_all_reduce(peal_comm* comm, const char* name, const void* x, void* y,
                            int64_t count, peal_dtype dtype, peal_op op, peal_algorithm algorithm,
                            peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.all_reduce(s, name, view(s, x, count, dtype), view(s, y, count, dtype), op_of(op),
                        checked(algorithm, Algorithm::ordered_tree, "algorithm"));
  });
}

peal_status peal_all_reduce_tree(peal_comm* comm, const char* name, int virtual_ranks,
                                 const void* const* partials, int partial_count, void* y,
                                 int64_t count, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    require(partials, "partials");
    std::vector<Tensor> views;
    for (int i = 0; i < partial_count; ++i) views.push_back(view(s, partials[i], count, PEAL_F32));
    return c.all_reduce_tree(s, name, virtual_ranks, views, view(s, y, count, PEAL_F32));
  });
}

peal_status peal_reduce_scatter(peal_comm* comm, const char* name, const void* x, void* y,
                                int64_t count, peal_dtype dtype, peal_op op,
                                peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.reduce_scatter(s, name, view(s, x, for_all(c, count), dtype), view(s, y, count, dtype),
                            op_of(op));
  });
}

peal_status peal_all_gather(peal_comm* comm, const char* name, const void* x, void* y,
                            int64_t count, peal_dtype dtype, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.all_gather(s, name, view(s, x, count, dtype), view(s, y, for_all(c, count), dtype));
  });
}

peal_status peal_broadcast(peal_comm* comm, const char* name, void* x, int64_t count,
                           peal_dtype dtype, int root, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.broadcast(s, name, view(s, x, count, dtype), root);
  });
}

peal_status peal_barrier(peal_comm* comm, const char* name, peal_request* request) {
  return collective(comm, name, request,
                    [&](Communicator& c, Stream& s) { return c.barrier(s, name); });
}

peal_status peal_all_reduce_group(peal_comm* comm, const char* name, const void* const* xs,
                                  void* const* ys, const int64_t* counts, int tensors,
                                  peal_dtype dtype, peal_op op, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    require(xs, "xs");
    require(ys, "ys");
    require(counts, "counts");
    if (tensors < 0) fail_input("tensors", tensors, "; 0 or more are needed");
    std::vector<Tensor> x, y;
    for (int i = 0; i < tensors; ++i) {
      x.push_back(view(s, xs[i], counts[i], dtype));
      y.push_back(view(s, ys[i], counts[i], dtype));
    }
    return c.all_reduce_group(s, name, x, y, op_of(op));
  });
}

peal_status peal_reduce(peal_comm* comm, const char* name, const void* x, void* y, int64_t count,
                        peal_dtype dtype, peal_op op, int root, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.reduce(s, name, view(s, x, count, dtype), view(s, y, count, dtype), op_of(op), root);
  });
}

peal_status peal_reduce_scatter_v(peal_comm* comm, const char* name, const void* x, void* y,
                                  const int64_t* counts, peal_dtype dtype, peal_op op,
                                  peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    const Counts all = counts_of(c, counts, "counts");
    return c.reduce_scatter(s, name, view(s, x, sum(all), dtype), view(s, y, mine(c, all), dtype),
                            op_of(op), all);
  });
}

peal_status peal_reduce_scatter_tree(peal_comm* comm, const char* name, int virtual_ranks,
                                     const void* const* partials, int partial_count, void* y,
                                     const int64_t* counts, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    require(partials, "partials");
    const Counts all = counts_of(c, counts, "counts");
    std::vector<Tensor> views;
    for (int i = 0; i < partial_count; ++i) {
      views.push_back(view(s, partials[i], sum(all), PEAL_F32));
    }
    return c.reduce_scatter_tree(s, name, virtual_ranks, views, view(s, y, mine(c, all), PEAL_F32),
                                 all);
  });
}

peal_status peal_all_gather_v(peal_comm* comm, const char* name, const void* x, void* y,
                              const int64_t* counts, peal_dtype dtype, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    const Counts all = counts_of(c, counts, "counts");
    return c.all_gather(s, name, view(s, x, mine(c, all), dtype), view(s, y, sum(all), dtype), all);
  });
}

peal_status peal_gather(peal_comm* comm, const char* name, const void* x, void* y, int64_t count,
                        peal_dtype dtype, int root, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.gather(s, name, view(s, x, count, dtype), view(s, y, for_all(c, count), dtype), root);
  });
}

peal_status peal_gather_v(peal_comm* comm, const char* name, const void* x, void* y,
                          const int64_t* counts, peal_dtype dtype, int root,
                          peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    const Counts all = counts_of(c, counts, "counts");
    return c.gather(s, name, view(s, x, mine(c, all), dtype), view(s, y, sum(all), dtype), root,
                    all);
  });
}

peal_status peal_scatter(peal_comm* comm, const char* name, const void* x, void* y, int64_t count,
                         peal_dtype dtype, int root, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.scatter(s, name, view(s, x, for_all(c, count), dtype), view(s, y, count, dtype), root);
  });
}

peal_status peal_scatter_v(peal_comm* comm, const char* name, const void* x, void* y,
                           const int64_t* counts, peal_dtype dtype, int root,
                           peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    const Counts all = counts_of(c, counts, "counts");
    return c.scatter(s, name, view(s, x, sum(all), dtype), view(s, y, mine(c, all), dtype), root,
                     all);
  });
}

peal_status peal_all_to_all(peal_comm* comm, const char* name, const void* x, void* y,
                            int64_t count, peal_dtype dtype, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    const std::int64_t all = for_all(c, count);
    return c.all_to_all(s, name, view(s, x, all, dtype), view(s, y, all, dtype));
  });
}

peal_status peal_all_to_all_v(peal_comm* comm, const char* name, const void* x, void* y,
                              const int64_t* send_counts, const int64_t* receive_counts,
                              peal_dtype dtype, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    const Counts out = counts_of(c, send_counts, "send_counts");
    const Counts in = counts_of(c, receive_counts, "receive_counts");
    return c.all_to_all(s, name, view(s, x, sum(out), dtype), view(s, y, sum(in), dtype), out, in);
  });
}

peal_status peal_send(peal_comm* comm, const char* name, const void* x, int64_t count,
                      peal_dtype dtype, int to, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.send(s, name, view(s, x, count, dtype), to);
  });
}

peal_status peal_recv(peal_comm* comm, const char* name, void* y, int64_t count, peal_dtype dtype,
                      int from, peal_request* request) {
  return collective(comm, name, request, [&](Communicator& c, Stream& s) {
    return c.recv(s, name, view(s, y, count, dtype), from);
  });
}
