// The C API behind the interface of C++, so that what is written for the one also runs over the
// other: every call goes through the functions of comm/peal.h, every status comes back as an Error.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/peal.h"
#include "core/base/error.h"

namespace peal {

class CCommunicator final : public Communicator {
 public:
  explicit CCommunicator(peal_comm* comm) : comm_(comm) {}
  ~CCommunicator() override { peal_comm_free(comm_); }

  // Throws what a function of the C API has said.
  static void check(peal_status status) {
    if (status == PEAL_OK) return;
    const ErrorKind kind = status == PEAL_ERROR_INPUT     ? ErrorKind::input
                           : status == PEAL_ERROR_PEER    ? ErrorKind::peer
                           : status == PEAL_ERROR_NUMERIC ? ErrorKind::numeric
                                                          : ErrorKind::internal;
    throw Error(kind, "", peal_last_error());
  }

  int rank() const override { return peal_rank(comm_); }
  int world_size() const override { return peal_world_size(comm_); }
  int local_rank() const override { return peal_local_rank(comm_); }
  int local_size() const override { return peal_local_size(comm_); }
  std::string_view backend() const override { return "host"; }
  std::string rank_name(int rank) const override {
    char text[256];
    check(peal_rank_name(comm_, rank, text, sizeof text));
    return text;
  }
  Buffer allocate(std::size_t bytes) override {
    peal_buffer* buffer = nullptr;
    check(peal_allocate(comm_, bytes, &buffer));
    return {static_cast<std::byte*>(peal_buffer_data(buffer)), bytes, kCpu,
            [buffer] { peal_buffer_free(buffer); }};
  }

  Request all_reduce(Stream&, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                     Algorithm algorithm) override {
    return start(peal_all_reduce, name, x.data, y.data, x.numel(), type(x), code(op),
                 static_cast<peal_algorithm>(algorithm));
  }
  Request all_reduce_group(Stream&, std::string_view name, std::span<const Tensor> xs,
                           std::span<const Tensor> ys, ReduceOp op) override {
    std::vector<const void*> in;
    std::vector<void*> out;
    std::vector<std::int64_t> counts;
    for (std::size_t i = 0; i < xs.size(); ++i) {
      in.push_back(xs[i].data);
      out.push_back(ys[i].data);
      counts.push_back(xs[i].numel());
    }
    return start(peal_all_reduce_group, name, in.data(), out.data(), counts.data(),
                 static_cast<int>(xs.size()), type(xs[0]), code(op));
  }
  Request all_reduce_tree(Stream&, std::string_view name, int virtual_ranks,
                          std::span<const Tensor> partials, Tensor y) override {
    std::vector<const void*> in;
    for (const Tensor& partial : partials) in.push_back(partial.data);
    return start(peal_all_reduce_tree, name, virtual_ranks, in.data(), static_cast<int>(in.size()),
                 y.data, y.numel());
  }
  Request reduce(Stream&, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                 int root) override {
    return start(peal_reduce, name, x.data, y.data, x.numel(), type(x), code(op), root);
  }
  Request reduce_scatter(Stream&, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                         Counts) override {
    return start(peal_reduce_scatter, name, x.data, y.data, y.numel(), type(x), code(op));
  }
  Request reduce_scatter_tree(Stream&, std::string_view name, int virtual_ranks,
                              std::span<const Tensor> partials, Tensor y, Counts counts) override {
    std::vector<const void*> in;
    for (const Tensor& partial : partials) in.push_back(partial.data);
    return start(peal_reduce_scatter_tree, name, virtual_ranks, in.data(),
                 static_cast<int>(in.size()), y.data, counts.data());
  }
  Request all_gather(Stream&, std::string_view name, const Tensor& x, Tensor y, Counts) override {
    return start(peal_all_gather, name, x.data, y.data, x.numel(), type(x));
  }
  Request gather(Stream&, std::string_view name, const Tensor& x, Tensor y, int root,
                 Counts) override {
    return start(peal_gather, name, x.data, y.data, x.numel(), type(x), root);
  }
  Request scatter(Stream&, std::string_view name, const Tensor& x, Tensor y, int root,
                  Counts) override {
    return start(peal_scatter, name, x.data, y.data, y.numel(), type(y), root);
  }
  Request all_to_all(Stream&, std::string_view name, const Tensor& x, Tensor y, Counts out,
                     Counts in) override {
    if (out.empty()) {
      return start(peal_all_to_all, name, x.data, y.data, x.numel() / world_size(), type(x));
    }
    return start(peal_all_to_all_v, name, x.data, y.data, out.data(), in.data(), type(x));
  }
  Request broadcast(Stream&, std::string_view name, Tensor x, int root) override {
    return start(peal_broadcast, name, x.data, x.numel(), type(x), root);
  }
  Request send(Stream&, std::string_view name, const Tensor& x, int to) override {
    return start(peal_send, name, x.data, x.numel(), type(x), to);
  }
  Request recv(Stream&, std::string_view name, Tensor y, int from) override {
    return start(peal_recv, name, y.data, y.numel(), type(y), from);
  }
  Request barrier(Stream&, std::string_view name) override { return start(peal_barrier, name); }

  void wait(Stream&, Request request) override { check(peal_wait(comm_, request.ticket())); }
  bool done(Request request) override {
    int done = 0;
    check(peal_test(comm_, request.ticket(), &done));
    return done != 0;
  }

  std::unique_ptr<Communicator> split(int colour, int key) override {
    peal_comm* part = nullptr;
    check(peal_split(comm_, colour, key, &part));
    return group(part);
  }
  std::unique_ptr<Communicator> make_group(std::span<const int> ranks) override {
    peal_comm* part = nullptr;
    check(peal_make_group(comm_, ranks.data(), static_cast<int>(ranks.size()), &part));
    return group(part);
  }

  void abort(const std::string& cause, int exit_code) override {
    check(peal_abort(comm_, cause.c_str(), exit_code));
  }
  void set_deadline(double seconds) override { check(peal_set_deadline(comm_, seconds)); }
  void set_step(std::int64_t step) override { check(peal_set_step(comm_, step)); }
  void set_flight_directory(const std::string& directory) override {
    check(peal_set_flight_directory(comm_, directory.c_str()));
  }
  // What C has not.
  std::string_view way(std::int64_t, DType, Algorithm) override {
    fail_internal("way", "not in C");
  }
  std::size_t copy_flight(std::uint64_t&, std::span<FlightCall>) override {
    fail_internal("copy_flight", "not in C");
  }

 private:
  static peal_dtype type(const Tensor& tensor) { return static_cast<peal_dtype>(tensor.dtype); }
  static peal_op code(ReduceOp op) { return static_cast<peal_op>(op); }
  static std::unique_ptr<Communicator> group(peal_comm* part) {
    return part == nullptr ? nullptr : std::make_unique<CCommunicator>(part);
  }

  template <typename Function, typename... Arguments>
  Request start(Function function, std::string_view name, Arguments... arguments) {
    peal_request request = 0;
    check(function(comm_, std::string(name).c_str(), arguments..., &request));
    return Request(request);
  }

  peal_comm* comm_;
};

}  // namespace peal
