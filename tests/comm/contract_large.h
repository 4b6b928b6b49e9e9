// The contract at more than 16 Mi elements: every call and dtype once. Arrays are filled and
// compared block by block, for an element at a time would take minutes.
#pragma once

#include "tests/comm/contract_blocks.h"

namespace peal::contract {

inline constexpr std::int64_t kLarge = (std::int64_t{16} << 20) + 17;

// What element i of a large array is: element phase(i) of a short list. Blocks begin at different
// places of it, so that data that lands in another block is seen.
template <typename T>
class Pattern {
 public:
  template <typename Element>
  explicit Pattern(const Element& element) {
    for (std::int64_t i = 0; i < kList + kBlock; ++i) line_.push_back(element(i % kList));
  }

  // `first`: the index of x[0].
  void fill(const Tensor& x, std::int64_t first = 0) const {
    each_block(x, first, [](T* at, const T* line, std::int64_t count) {
      std::memcpy(at, line, static_cast<std::size_t>(count) * sizeof(T));
    });
  }
  void require_in(std::string_view what, const Tensor& y, std::int64_t first = 0) const {
    each_block(y, first, [&](const T* at, const T* line, std::int64_t count) {
      if (std::memcmp(at, line, static_cast<std::size_t>(count) * sizeof(T)) == 0) return;
      for (std::int64_t i = 0; i < count; ++i) {
        require(number(at[i]) == number(line[i]), what, " of ", y.numel(), " ",
                name_of(dtype_of<T>()), ": element ", at - y.as<T>() + i, " is ", number(at[i]),
                ", not ", number(line[i]));
      }
    });
  }

 private:
  static constexpr std::int64_t kList = 1021, kBlock = 4096;

  template <typename Work>
  void each_block(const Tensor& x, std::int64_t first, const Work& work) const {
    for (std::int64_t i = 0; i < x.numel();) {
      const std::int64_t block = (first + i) / kBlock;
      const std::int64_t count = std::min((block + 1) * kBlock - first - i, x.numel() - i);
      work(x.as<T>() + i, &line_[static_cast<std::size_t>((first + i + 7 * block) % kList)], count);
      i += count;
    }
  }

  std::vector<T> line_;
};

template <typename T>
class Large {
 public:
  Large(Communicator& comm, Memory memory)
      : comm_(comm),
        n_(comm.world_size()),
        me_(comm.rank()),
        block_((kLarge + n_ - 1) / n_),
        arrays_(comm, block_ * n_, memory),
        sum_([&](std::int64_t i) { return expected<T>(ReduceOp::sum, n_, i); }),
        mine_([&](std::int64_t i) { return value<T>(me_, i); }) {
    for (int r = 0; r < n_; ++r) {
      moved_.emplace_back([r](std::int64_t i) { return token<T>(r, i); });
    }
  }

  void all() {
    reductions();
    blocks();
    from_one_to_another();
    if constexpr (std::is_same_v<T, float>) tree();
  }

 private:
  Tensor x(std::int64_t count, std::int64_t first = 0) const {
    return view<T>(arrays_.x, count, first);
  }
  Tensor y(std::int64_t count, std::int64_t first = 0) const {
    return view<T>(arrays_.y, count, first);
  }

  void reductions() {
    const Tensor in = x(kLarge), out = y(kLarge);
    mine_.fill(in);
    for (const Algorithm algorithm : {Algorithm::ring, Algorithm::ordered_tree}) {
      comm_.wait(s_, comm_.all_reduce(s_, "sum", in, out, ReduceOp::sum, algorithm));
      sum_.require_in("all_reduce", out);
    }
    const bool is_root = me_ == n_ - 1;
    comm_.wait(s_, comm_.reduce(s_, "root", in, is_root ? out : Tensor(), ReduceOp::sum, n_ - 1));
    if (is_root) sum_.require_in("reduce", out);
    const Tensor block = y(block_);
    mine_.fill(x(block_ * n_));
    comm_.wait(s_, comm_.reduce_scatter(s_, "block", x(block_ * n_), block, ReduceOp::sum));
    sum_.require_in("reduce_scatter", block, me_ * block_);
    const Tensor xs[] = {x(5), x(kLarge - 5, 5)}, ys[] = {y(5), y(kLarge - 5, 5)};
    comm_.wait(s_, comm_.all_reduce_group(s_, "group", xs, ys, ReduceOp::sum));
    sum_.require_in("all_reduce_group", out);
    comm_.wait(s_, comm_.all_reduce(s_, "in place", in, in, ReduceOp::sum));
    sum_.require_in("all_reduce in place", in);
  }

  void blocks() {
    const Tensor all = y(block_ * n_), mine = x(block_);
    const int root = n_ - 1;
    const bool is_root = me_ == root;
    of(me_).fill(mine);
    comm_.wait(s_, comm_.all_gather(s_, "all_gather", mine, all));
    require_of_every_rank("all_gather");
    std::memset(all.data, 0x55, all.bytes());
    comm_.wait(s_, comm_.gather(s_, "gather", mine, is_root ? all : Tensor(), root));
    if (is_root) require_of_every_rank("gather");
    if (is_root) of(root).fill(all);
    comm_.wait(s_, comm_.scatter(s_, "scatter", is_root ? all : Tensor(), mine, root));
    of(root).require_in("scatter", mine, me_ * block_);
    of(me_).fill(x(block_ * n_));
    comm_.wait(s_, comm_.all_to_all(s_, "all_to_all", x(block_ * n_), all));
    for (int r = 0; r < n_; ++r) {
      of(r).require_in("all_to_all", y(block_, r * block_), me_ * block_);
    }
    ragged();
  }

  // All send the last rank nearly all, and the others 3 elements each.
  void ragged() {
    const auto n = static_cast<std::size_t>(n_);
    const std::int64_t received = me_ == n_ - 1 ? block_ - 1 : 3;
    std::vector<std::int64_t> sent(n, 3), arrives(n, received);
    sent.back() = block_ - 1;
    const Tensor in = x(3 * (n_ - 1) + block_ - 1), out = y(received * n_);
    comm_.wait(s_, comm_.all_to_all(s_, "ragged", in, out, sent, arrives));
    for (int r = 0; r < n_; ++r) {
      of(r).require_in("ragged all_to_all", y(received, r * received), 3 * me_);
    }
  }

  void from_one_to_another() {
    of(me_).fill(x(kLarge));
    const int last = n_ - 1;
    if (me_ == 0) comm_.wait(s_, comm_.send(s_, "send", x(kLarge), last));
    if (me_ == last) {
      comm_.wait(s_, comm_.recv(s_, "send", y(kLarge), 0));
      of(0).require_in("recv", y(kLarge));
    }
    comm_.wait(s_, comm_.broadcast(s_, "broadcast", x(kLarge), last));
    of(last).require_in("broadcast", x(kLarge));
  }

  // Small whole numbers, whose sum is exact in every order.
  void tree() {
    mine_.fill(x(kLarge));
    const Tensor partial[] = {x(kLarge)};
    comm_.wait(s_, comm_.all_reduce_tree(s_, "tree", n_, partial, y(kLarge)));
    sum_.require_in("all_reduce_tree", y(kLarge));
  }

  void require_of_every_rank(std::string_view what) const {
    for (int r = 0; r < n_; ++r) of(r).require_in(what, y(block_, r * block_));
  }
  const Pattern<T>& of(int rank) const { return moved_[static_cast<std::size_t>(rank)]; }

  Communicator& comm_;
  int n_, me_;
  std::int64_t block_;
  Arrays<T> arrays_;
  Pattern<T> sum_, mine_;
  std::vector<Pattern<T>> moved_;
  Stream s_;
};

}  // namespace peal::contract
