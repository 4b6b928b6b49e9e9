// One call of any kind whose size, dtype and memory are drawn from a seed: what drills and soak
// make by the thousand. Ranks that ask for the same make the same call.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/tree.h"
#include "core/base/error.h"
#include "core/base/random.h"

namespace peal {

class AnyCall {
 public:
  // What one rank does in another way than its peers.
  enum class Twist { none, count, dtype, op, name, root, turn };  // turn: who sends first

  static const std::vector<std::string>& kinds() {
    static const std::vector<std::string> list{
        "all_reduce",         "all_reduce_group", "all_reduce_tree", "reduce",     "all_gather",
        "reduce_scatter",     "gather",           "scatter",         "all_to_all", "ragged",
        "broadcast",          "send_recv",        "barrier",         "split",      "make_group",
        "reduce_scatter_tree"};
    return list;
  }

  // Collective. Arrays have up to `most` elements a rank; send_recv is between ranks `a` and `b`.
  AnyCall(Communicator& comm, std::uint64_t seed, std::int64_t most)
      : comm_(comm), seed_(seed), most_(most), n_(comm.world_size()), me_(comm.rank()) {
    const auto bytes = static_cast<std::size_t>(most + kSlack) * 8 * static_cast<std::size_t>(n_);
    for (int i = 0; i < 2; ++i) shared_[i] = comm.allocate(bytes), own_[i] = Buffer(bytes);
  }
  void set_pair(int a, int b) {
    a_ = a;
    b_ = b;
  }

  // Call number `index` of this kind; it has ended when a split or make_group returns.
  Request start(const std::string& kind, std::uint64_t index, Twist twist = Twist::none) {
    const std::uint64_t random = mix64(seed_ * 0x9E3779B97F4A7C15u + index);
    const std::int64_t sizes[] = {0, 1, 7, 64, 1009, most_ / 8, most_};
    count_ = std::min(sizes[random % 7], most_) + (twist == Twist::count ? 1 : 0);
    const DType types[] = {DType::f32, DType::f64, DType::i64, DType::bf16};
    type_ = kind.ends_with("_tree") ? DType::f32 : types[random / 8 % 4];
    if (twist == Twist::dtype) type_ = type_ == DType::i32 ? DType::f32 : DType::i32;
    op_ = twist == Twist::op ? ReduceOp::max : ReduceOp::sum;
    root_ = static_cast<int>((random / 32 + (twist == Twist::root ? 1 : 0)) %
                             static_cast<std::uint64_t>(n_));
    // Memory may differ from rank to rank.
    memory_ =
        (random / 64 + static_cast<std::uint64_t>(me_) * (random / 128)) % 2 == 0 ? shared_ : own_;
    name_ = cat(kind, " ", index, twist == Twist::name ? " renamed" : "");
    return begin(kind, twist);
  }
  void make(const std::string& kind, std::uint64_t index, Twist twist = Twist::none) {
    comm_.wait(s_, start(kind, index, twist));
  }

 private:
  static constexpr std::int64_t kSlack = 8;

  Tensor x(std::int64_t count) const { return {memory_[0].data(), {count}, type_}; }
  Tensor y(std::int64_t count) const { return {memory_[1].data(), {count}, type_}; }

  Request begin(const std::string& kind, Twist twist) {
    const bool is_root = me_ == root_;
    const std::int64_t all = count_ * n_;
    if (kind == "all_reduce") return comm_.all_reduce(s_, name_, x(count_), y(count_), op_);
    if (kind == "all_reduce_group") return group();
    if (kind == "all_reduce_tree") return tree();
    if (kind == "reduce_scatter_tree") return scattered_tree(twist);
    if (kind == "reduce") return comm_.reduce(s_, name_, x(count_), y(count_), op_, root_);
    if (kind == "reduce_scatter") return comm_.reduce_scatter(s_, name_, x(all), y(count_), op_);
    if (kind == "all_gather") return comm_.all_gather(s_, name_, x(count_), y(all));
    if (kind == "gather") {
      return comm_.gather(s_, name_, x(count_), is_root ? y(all) : Tensor(), root_);
    }
    if (kind == "scatter") {
      return comm_.scatter(s_, name_, is_root ? x(all) : Tensor(), y(count_), root_);
    }
    if (kind == "all_to_all") return comm_.all_to_all(s_, name_, x(all), y(all));
    if (kind == "ragged") return ragged(twist);
    if (kind == "broadcast") return comm_.broadcast(s_, name_, x(count_), root_);
    if (kind == "send_recv") return pair(twist);
    if (kind == "barrier") return comm_.barrier(s_, name_);
    if (kind == "split") {
      comm_.split(me_ % 2, -me_);
    } else if (kind == "make_group") {
      std::vector<int> list{a_, b_};
      if (twist == Twist::name) std::swap(list[0], list[1]);
      comm_.make_group(list);
    } else {
      fail_input("call", "\"", kind, "\"; known: ", join(kinds()));
    }
    return {};
  }

  // Three tensors, one of them empty.
  Request group() {
    const std::int64_t first = count_ / 3;
    const std::vector<std::int64_t> sizes{first, 0, count_ - first};
    std::vector<Tensor> xs, ys;
    std::size_t begin = 0;
    for (const std::int64_t size : sizes) {
      xs.push_back({memory_[0].data() + begin, {size}, type_});
      ys.push_back({memory_[1].data() + begin, {size}, type_});
      begin += static_cast<std::size_t>(size) * size_of(type_);
    }
    return comm_.all_reduce_group(s_, name_, xs, ys, op_);
  }

  // Two virtual ranks on each.
  Request tree() {
    const std::size_t partials = maximal_nodes(2 * n_, block_of(2 * n_, n_, me_)).size();
    return comm_.all_reduce_tree(s_, name_, 2 * n_, std::vector<Tensor>(partials, x(count_)),
                                 y(count_));
  }

  // Rank 0's block is empty, every other one's the same; with a twist the last one's is longer.
  Request scattered_tree(Twist twist) {
    const bool twisted = twist == Twist::count;
    std::vector<std::int64_t> counts(static_cast<std::size_t>(n_), count_ - (twisted ? 1 : 0));
    counts.front() = 0;
    if (twisted) ++counts.back();
    std::int64_t all = 0;
    for (const std::int64_t count : counts) all += count;
    const std::size_t partials = maximal_nodes(2 * n_, block_of(2 * n_, n_, me_)).size();
    return comm_.reduce_scatter_tree(s_, name_, 2 * n_, std::vector<Tensor>(partials, x(all)),
                                     y(counts[static_cast<std::size_t>(me_)]), counts);
  }

  // A rank sends itself nothing and every other one `count_`; with a twist one element more to the
  // next.
  Request ragged(Twist twist) {
    const auto n = static_cast<std::size_t>(n_), me = static_cast<std::size_t>(me_);
    std::vector<std::int64_t> out(n, count_), in(n, count_);
    out[me] = in[me] = 0;
    if (twist == Twist::count) {
      for (std::int64_t& size : out) size -= size > 0 ? 1 : 0;
      for (std::int64_t& size : in) size -= size > 0 ? 1 : 0;
      ++out[(me + 1) % n];
    }
    std::int64_t sent = 0, received = 0;
    for (std::size_t r = 0; r < n; ++r) sent += out[r], received += in[r];
    return comm_.all_to_all(s_, name_, x(sent), y(received), out, in);
  }

  // There and back.
  Request pair(Twist twist) {
    if (me_ != a_ && me_ != b_) return {};
    const int peer = me_ == a_ ? b_ : a_;
    const bool sends = (me_ == a_) != (twist == Twist::turn);
    const Tensor out = x(count_), in = y(count_);
    comm_.wait(s_, sends ? comm_.send(s_, name_, out, peer) : comm_.recv(s_, name_, in, peer));
    return sends ? comm_.recv(s_, name_, in, peer) : comm_.send(s_, name_, out, peer);
  }

  Communicator& comm_;
  std::uint64_t seed_;
  std::int64_t most_;
  int n_, me_, a_ = 0, b_ = 1;
  Stream s_;
  Buffer shared_[2], own_[2];
  Buffer* memory_ = own_;
  std::int64_t count_ = 0;
  DType type_ = DType::f32;
  ReduceOp op_ = ReduceOp::sum;
  int root_ = 0;
  std::string name_;
};

}  // namespace peal
