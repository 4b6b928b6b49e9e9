// A communicator that takes host memory and makes each call with a copy of it on a device, so that
// the contract, which writes and reads its arrays, runs over communicators of device memory.
#pragma once

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/device/stream.h"

namespace peal {

class Mirrored final : public Communicator {
 public:
  Mirrored(std::unique_ptr<Communicator> inner, const Device& device)
      : inner_(std::move(inner)), device_(device), stream_(device) {}

  int rank() const override { return inner_->rank(); }
  int world_size() const override { return inner_->world_size(); }
  int local_rank() const override { return inner_->local_rank(); }
  int local_size() const override { return inner_->local_size(); }
  std::string_view backend() const override { return inner_->backend(); }
  std::string rank_name(int rank) const override { return inner_->rank_name(rank); }
  Buffer allocate(std::size_t bytes) override { return Buffer(bytes); }

  Request all_reduce(Stream&, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                     Algorithm algorithm) override {
    Call call(*this, {x}, {y});
    return call.made(inner_->all_reduce(stream_, name, call.x(), call.y(), op, algorithm));
  }
  Request all_reduce_group(Stream&, std::string_view name, std::span<const Tensor> xs,
                           std::span<const Tensor> ys, ReduceOp op) override {
    Call call(*this, {xs.begin(), xs.end()}, {ys.begin(), ys.end()});
    return call.made(inner_->all_reduce_group(stream_, name, call.xs, call.ys, op));
  }
  Request all_reduce_tree(Stream&, std::string_view name, int virtual_ranks,
                          std::span<const Tensor> partials, Tensor y) override {
    Call call(*this, {partials.begin(), partials.end()}, {y});
    return call.made(inner_->all_reduce_tree(stream_, name, virtual_ranks, call.xs, call.y()));
  }
  Request reduce(Stream&, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                 int root) override {
    Call call(*this, {x}, {y});
    return call.made(inner_->reduce(stream_, name, call.x(), call.y(), op, root));
  }
  Request reduce_scatter(Stream&, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                         Counts counts) override {
    Call call(*this, {x}, {y});
    return call.made(inner_->reduce_scatter(stream_, name, call.x(), call.y(), op, counts));
  }
  Request reduce_scatter_tree(Stream&, std::string_view name, int virtual_ranks,
                              std::span<const Tensor> partials, Tensor y, Counts counts) override {
    Call call(*this, {partials.begin(), partials.end()}, {y});
    return call.made(
        inner_->reduce_scatter_tree(stream_, name, virtual_ranks, call.xs, call.y(), counts));
  }
  Request all_gather(Stream&, std::string_view name, const Tensor& x, Tensor y,
                     Counts counts) override {
    Call call(*this, {x}, {y});
    return call.made(inner_->all_gather(stream_, name, call.x(), call.y(), counts));
  }
  Request gather(Stream&, std::string_view name, const Tensor& x, Tensor y, int root,
                 Counts counts) override {
    Call call(*this, {x}, {y});
    return call.made(inner_->gather(stream_, name, call.x(), call.y(), root, counts));
  }
  Request scatter(Stream&, std::string_view name, const Tensor& x, Tensor y, int root,
                  Counts counts) override {
    Call call(*this, {x}, {y});
    return call.made(inner_->scatter(stream_, name, call.x(), call.y(), root, counts));
  }
  Request all_to_all(Stream&, std::string_view name, const Tensor& x, Tensor y, Counts send_counts,
                     Counts receive_counts) override {
    Call call(*this, {x}, {y});
    return call.made(
        inner_->all_to_all(stream_, name, call.x(), call.y(), send_counts, receive_counts));
  }
  Request broadcast(Stream&, std::string_view name, Tensor x, int root) override {
    Call call(*this, {}, {x});
    return call.made(inner_->broadcast(stream_, name, call.y(), root));
  }
  Request send(Stream&, std::string_view name, const Tensor& x, int to) override {
    Call call(*this, {x}, {});
    return call.made(inner_->send(stream_, name, call.x(), to));
  }
  Request recv(Stream&, std::string_view name, Tensor y, int from) override {
    Call call(*this, {}, {y});
    return call.made(inner_->recv(stream_, name, call.y(), from));
  }
  Request barrier(Stream&, std::string_view name) override {
    return inner_->barrier(stream_, name);
  }

  void wait(Stream&, Request request) override {
    inner_->wait(stream_, request);
    copy_back(request);
  }
  bool done(Request request) override {
    if (!inner_->done(request)) return false;
    inner_->wait(stream_, request);
    copy_back(request);
    return true;
  }
  std::unique_ptr<Communicator> split(int colour, int key) override {
    return over(inner_->split(colour, key));
  }
  std::unique_ptr<Communicator> make_group(std::span<const int> ranks) override {
    return over(inner_->make_group(ranks));
  }
  void abort(const std::string& cause, int exit_code) override { inner_->abort(cause, exit_code); }
  std::string_view way(std::int64_t count, DType dtype, Algorithm algorithm) override {
    return inner_->way(count, dtype, algorithm);
  }
  void set_deadline(double seconds) override { inner_->set_deadline(seconds); }
  void set_step(std::int64_t step) override { inner_->set_step(step); }
  void set_flight_directory(const std::string& directory) override {
    inner_->set_flight_directory(directory);
  }
  std::size_t copy_flight(std::uint64_t& seen, std::span<FlightCall> into) override {
    return inner_->copy_flight(seen, into);
  }

 private:
  // Host memory and its copy: arrays that overlap are one, so that "in place" stays in place.
  struct Region {
    std::byte *begin = nullptr, *end = nullptr;
    bool written = false;
    Buffer copy;
  };
  struct Pending {
    Request request;
    std::vector<Region> regions;
  };

  struct Call {
    Call(Mirrored& owner_of_call, std::vector<Tensor> inputs, std::vector<Tensor> outputs)
        : owner(owner_of_call), xs(std::move(inputs)), ys(std::move(outputs)) {
      for (const Tensor& x : xs) add(x, false);
      for (const Tensor& y : ys) add(y, true);
      std::sort(regions.begin(), regions.end(),
                [](const Region& a, const Region& b) { return a.begin < b.begin; });
      std::vector<Region> merged;
      for (Region& region : regions) {
        if (!merged.empty() && region.begin < merged.back().end) {
          merged.back().end = std::max(merged.back().end, region.end);
          merged.back().written = merged.back().written || region.written;
        } else {
          merged.push_back(std::move(region));
        }
      }
      regions = std::move(merged);
      for (Region& region : regions) {
        const auto bytes = static_cast<std::size_t>(region.end - region.begin);
        region.copy = Buffer(bytes, owner.device_);
        copy(owner.stream_, region.copy.data(), region.begin, bytes);
      }
      for (Tensor& x : xs) translate(x);
      for (Tensor& y : ys) translate(y);
    }

    void add(const Tensor& t, bool written) {
      if (t.bytes() == 0 || t.data == nullptr) return;
      regions.push_back({t.as<std::byte>(), t.as<std::byte>() + t.bytes(), written, Buffer()});
    }
    void translate(Tensor& t) {
      t.device = owner.device_;
      for (const Region& region : regions) {
        auto* data = t.as<std::byte>();
        if (t.bytes() == 0 || data < region.begin || data >= region.end) continue;
        t.data = region.copy.data() + (data - region.begin);
        return;
      }
    }
    Tensor x() const { return xs[0]; }
    Tensor y() const { return ys[0]; }
    Request made(Request request) {
      owner.pending_.push_back({request, std::move(regions)});
      return request;
    }

    Mirrored& owner;
    std::vector<Tensor> xs, ys;
    std::vector<Region> regions;
  };

  void copy_back(Request request) {
    stream_.synchronize();
    while (!pending_.empty() && pending_.front().request.ticket() <= request.ticket()) {
      for (const Region& region : pending_.front().regions) {
        if (!region.written) continue;
        copy(stream_, region.begin, region.copy.data(),
             static_cast<std::size_t>(region.end - region.begin));
      }
      stream_.synchronize();
      pending_.pop_front();
    }
  }

  std::unique_ptr<Communicator> over(std::unique_ptr<Communicator> group) const {
    if (!group) return nullptr;
    return std::make_unique<Mirrored>(std::move(group), device_);
  }

  std::unique_ptr<Communicator> inner_;
  Device device_;
  Stream stream_;
  std::deque<Pending> pending_;
};

}  // namespace peal
