// The contract of the calls that are more than one array for every rank: roots, blocks, groups.
#pragma once

#include "tests/comm/contract.h"

namespace peal::contract {

inline const std::vector<std::int64_t>& block_counts() {
  static const std::vector<std::int64_t> list{0, 1, 7, 1009, 4096}, few{0, 7, 1009};
  return few_counts ? few : list;
}

// Rank r's element i, all over 0..100: what moves is found at its place only.
template <typename T>
T token(int rank, std::int64_t i) {
  const std::int64_t mixed = (rank * 37 + i * 11 + i / 101) % 101;
  return make<T>(static_cast<double>(std::is_same_v<T, Truth> ? mixed % 2 : mixed));
}

template <typename T>
void fill_tokens(const Tensor& x, int rank, std::int64_t first = 0) {
  for (std::int64_t i = 0; i < x.numel(); ++i) x.as<T>()[i] = token<T>(rank, first + i);
}

// y[i] is element first + i of that rank.
template <typename T>
void require_tokens(std::string_view what, const T* y, std::int64_t count, int rank,
                    std::int64_t first) {
  for (std::int64_t i = 0; i < count; ++i) {
    const double want = number(token<T>(rank, first + i)), got = number(y[i]);
    require(got == want, what, " of ", name_of(dtype_of<T>()), ": element ", i, " of ", count,
            " of rank ", rank, " is ", got, ", not ", want);
  }
}

// Blocks of all ranks: of one size, or all of different sizes, some of them 0.
struct Blocks {
  std::vector<std::int64_t> sizes, begins;
  bool ragged = false;

  Blocks(int ranks, std::int64_t count, bool differ) : ragged(differ) {
    for (int r = 0; r < ranks; ++r) {
      begins.push_back(total());
      sizes.push_back(differ ? count / 2 * ((r + 1) % 3) + r % 2 : count);
    }
  }
  std::int64_t total() const { return begins.empty() ? 0 : begins.back() + sizes.back(); }
  std::int64_t size(int r) const { return sizes[static_cast<std::size_t>(r)]; }
  std::int64_t begin(int r) const { return begins[static_cast<std::size_t>(r)]; }
  Counts counts() const { return ragged ? Counts(sizes) : Counts(); }
};

// Where the arrays of a test lie: both in memory of allocate(), neither, or on some ranks only.
enum class Memory { own, shared, mixed };

template <typename T>
struct Arrays {
  Buffer x, y;

  Arrays(Communicator& comm, std::int64_t elements, Memory memory) {
    const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(T);
    if (memory != Memory::own) {
      x = comm.allocate(bytes);
      y = comm.allocate(bytes);
    }
    if (memory == Memory::own || (memory == Memory::mixed && comm.rank() % 2 == 1)) {
      mine_x = std::move(x);
      mine_y = std::move(y);
      x = Buffer(bytes);
      y = Buffer(bytes);
    }
  }

 private:
  Buffer mine_x, mine_y;  // allocated alike on all ranks, and released alike
};

template <typename T>
void reduce_to(Communicator& comm, const Arrays<T>& arrays, std::int64_t count, int root) {
  Stream s;
  const bool is_root = comm.rank() == root;
  for (const ReduceOp op : all_ops()) {
    if (!allows<T>(op) || (count > 7 && op != ReduceOp::sum && op != ReduceOp::mean)) continue;
    const Tensor x = view<T>(arrays.x, count), y = view<T>(arrays.y, count);
    fill<T>(x, comm.rank());
    comm.wait(s, comm.reduce(s, "reduce", x, is_root ? y : Tensor(), op, root));
    if (is_root) require_reduced<T>("reduce", y, op, comm.world_size());
    comm.wait(s, comm.reduce(s, "reduce", x, is_root ? x : Tensor(), op, root));
    if (is_root) {
      require_reduced<T>("reduce in place", x, op, comm.world_size());
      continue;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      require(number(x.as<T>()[i]) == number(value<T>(comm.rank(), i)), "reduce wrote to x");
    }
  }
}

template <typename T>
void reduce_blocks(Communicator& comm, const Arrays<T>& arrays, const Blocks& blocks) {
  Stream s;
  const int me = comm.rank(), n = comm.world_size();
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max}) {
    const Tensor x = view<T>(arrays.x, blocks.total()), y = view<T>(arrays.y, blocks.size(me));
    const Tensor mine = view<T>(arrays.x, blocks.size(me), blocks.begin(me));
    fill<T>(x, me);
    comm.wait(s, comm.reduce_scatter(s, "scatter", x, y, op, blocks.counts()));
    require_reduced<T>("reduce_scatter", y, op, n, blocks.begin(me));
    comm.wait(s, comm.reduce_scatter(s, "scatter", x, mine, op, blocks.counts()));
    require_reduced<T>("reduce_scatter in place", mine, op, n, blocks.begin(me));
  }
}

template <typename T>
void all_gather(Communicator& comm, const Arrays<T>& arrays, const Blocks& blocks) {
  Stream s;
  const int me = comm.rank(), n = comm.world_size();
  const Tensor y = view<T>(arrays.y, blocks.total());
  for (const bool in_place : {false, true}) {
    const Tensor x =
        view<T>(in_place ? arrays.y : arrays.x, blocks.size(me), in_place ? blocks.begin(me) : 0);
    std::memset(y.data, 0x55, y.bytes());
    fill_tokens<T>(x, me);
    comm.wait(s, comm.all_gather(s, "gather", x, y, blocks.counts()));
    for (int r = 0; r < n; ++r) {
      require_tokens<T>("all_gather", y.as<T>() + blocks.begin(r), blocks.size(r), r, 0);
    }
  }
}

template <typename T>
void gather_and_scatter(Communicator& comm, const Arrays<T>& arrays, const Blocks& blocks,
                        int root) {
  Stream s;
  const int me = comm.rank(), n = comm.world_size();
  const bool is_root = me == root;
  const Tensor all = view<T>(arrays.y, blocks.total());
  for (const bool in_place : {false, true}) {
    const bool within = in_place && is_root;
    const Tensor mine =
        view<T>(within ? arrays.y : arrays.x, blocks.size(me), within ? blocks.begin(me) : 0);
    std::memset(all.data, 0x55, all.bytes());
    fill_tokens<T>(mine, me);
    comm.wait(s, comm.gather(s, "gather", mine, is_root ? all : Tensor(), root, blocks.counts()));
    for (int r = 0; r < n && is_root; ++r) {
      require_tokens<T>("gather", all.as<T>() + blocks.begin(r), blocks.size(r), r, 0);
    }
    if (is_root) fill_tokens<T>(all, root);
    if (!within) std::memset(mine.data, 0x55, mine.bytes());
    comm.wait(s, comm.scatter(s, "scatter", is_root ? all : Tensor(), mine, root, blocks.counts()));
    require_tokens<T>("scatter", mine.as<T>(), blocks.size(me), root, blocks.begin(me));
  }
}

// Rank r sends rank q as many elements as the block of rank (2 r + q) has.
template <typename T>
void all_to_all(Communicator& comm, const Arrays<T>& arrays, const Blocks& blocks) {
  Stream s;
  const int me = comm.rank(), n = comm.world_size();
  const auto sent = [&](int from, int to) { return blocks.size((2 * from + to) % n); };
  std::vector<std::int64_t> out, in;
  std::int64_t all_out = 0, all_in = 0;
  for (int r = 0; r < n; ++r) {
    all_out += out.emplace_back(sent(me, r));
    all_in += in.emplace_back(sent(r, me));
  }
  const Tensor x = view<T>(arrays.x, all_out), y = view<T>(arrays.y, all_in);
  fill_tokens<T>(x, me);
  std::memset(y.data, 0x55, y.bytes());
  comm.wait(s, comm.all_to_all(s, "tokens", x, y, blocks.ragged ? Counts(out) : Counts(),
                               blocks.ragged ? Counts(in) : Counts()));
  const T* arrived = y.as<T>();
  for (int r = 0; r < n; ++r) {
    std::int64_t first = 0;
    for (int q = 0; q < me; ++q) first += sent(r, q);
    require_tokens<T>("all_to_all", arrived, sent(r, me), r, first);
    arrived += sent(r, me);
  }
}

template <typename T>
void broadcast_from(Communicator& comm, const Arrays<T>& arrays, std::int64_t count, int root) {
  Stream s;
  const Tensor x = view<T>(arrays.x, count);
  fill_tokens<T>(x, comm.rank());
  comm.wait(s, comm.broadcast(s, "weights", x, root));
  require_tokens<T>("broadcast", x.as<T>(), count, root, 0);
}

// Every call with a root or with blocks. Short arrays meet every root, longer ones two.
template <typename T>
void roots_and_blocks(Communicator& comm, Memory memory,
                      const std::vector<std::int64_t>& sizes = block_counts()) {
  const int n = comm.world_size();
  const Arrays<T> arrays(comm, (sizes.back() + 1) * n, memory);
  for (const std::int64_t count : sizes) {
    for (int root = 0; root<n; root += count> 7 ? std::max(n - 1, 1) : 1) {
      reduce_to<T>(comm, arrays, count, root);
      broadcast_from<T>(comm, arrays, count, root);
      for (const bool ragged : {false, true}) {
        gather_and_scatter<T>(comm, arrays, Blocks(n, count, ragged), root);
      }
    }
    for (const bool ragged : {false, true}) {
      const Blocks blocks(n, count, ragged);
      reduce_blocks<T>(comm, arrays, blocks);
      all_gather<T>(comm, arrays, blocks);
      all_to_all<T>(comm, arrays, blocks);
    }
  }
}

// Each call has counts of its own, though all are in flight before the first is waited for.
inline void ragged_calls_in_flight(Communicator& comm) {
  constexpr std::size_t kCalls = 100;
  const int me = comm.rank(), n = comm.world_size();
  Stream s;
  std::vector<Blocks> blocks;
  std::vector<std::vector<float>> xs(kCalls), ys(kCalls);
  std::vector<Request> requests;
  for (std::size_t i = 0; i < kCalls; ++i) {
    blocks.emplace_back(n, static_cast<std::int64_t>(2 * i), /*differ=*/true);
    xs[i].resize(static_cast<std::size_t>(blocks[i].size(me)));
    ys[i].resize(static_cast<std::size_t>(blocks[i].total()));
    fill_tokens<float>(view(xs[i]), me, static_cast<std::int64_t>(i));
    std::vector<std::int64_t> counts = blocks[i].sizes;  // gone when the call runs
    requests.push_back(comm.all_gather(s, "gather", view(xs[i]), view(ys[i]), counts));
  }
  comm.wait(s, requests.back());
  for (std::size_t i = 0; i < kCalls; ++i) {
    for (int r = 0; r < n; ++r) {
      require_tokens<float>("all_gather in flight", ys[i].data() + blocks[i].begin(r),
                            blocks[i].size(r), r, static_cast<std::int64_t>(i));
    }
  }
}

// Every pair of ranks, both ways, while the others are elsewhere; a collective in between.
template <typename T>
void send_and_receive(Communicator& comm, Memory memory) {
  constexpr std::int64_t kMost = 400'009;  // more than a bounce buffer holds
  const Arrays<T> arrays(comm, kMost, memory);
  const int me = comm.rank(), n = comm.world_size();
  Stream s;
  for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, std::int64_t{1009}, kMost}) {
    const Tensor x = view<T>(arrays.x, count), y = view<T>(arrays.y, count);
    fill_tokens<T>(x, me);
    for (int a = 0; a < n; ++a) {
      for (int b = a + 1; b < n; ++b) {
        if (me != a && me != b) continue;
        const int peer = me == a ? b : a;
        std::memset(y.data, 0x55, y.bytes());
        if (me == a) comm.wait(s, comm.send(s, "there", x, peer));
        comm.wait(s, comm.recv(s, me == a ? "back" : "there", y, peer));
        if (me == b) comm.wait(s, comm.send(s, "back", x, peer));
        require_tokens<T>("recv", y.as<T>(), count, peer, 0);
      }
    }
    all_reduce_one<T>(comm, view<T>(arrays.y, 7), view<T>(arrays.y, 7), ReduceOp::max,
                      Algorithm::automatic);
  }
}

// A group of tensors of many sizes, laid out one after the other; every third in memory of its own.
template <typename T>
void all_reduce_group(Communicator& comm, Memory memory, const std::vector<std::int64_t>& sizes,
                      ReduceOp op) {
  Stream s;
  std::int64_t total = 0;
  for (const std::int64_t size : sizes) total += size;
  const Arrays<T> arrays(comm, total, memory);
  std::vector<std::vector<T>> apart(sizes.size());
  std::vector<Tensor> xs, ys;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < sizes.size(); begin += sizes[i++]) {
    xs.push_back(view<T>(arrays.x, sizes[i], begin));
    ys.push_back(view<T>(arrays.y, sizes[i], begin));
    if (i % 3 != 2) continue;
    apart[i].resize(static_cast<std::size_t>(sizes[i]));
    xs.back() = view(apart[i]);
    if (i % 2 == 0) ys.back() = xs.back();
  }
  for (const bool in_place : {false, true}) {
    std::int64_t first = 0;
    for (const Tensor& x : xs) {
      fill<T>(x, comm.rank(), first);
      first += x.numel();
    }
    const std::vector<Tensor>& results = in_place ? xs : ys;
    comm.wait(s, comm.all_reduce_group(s, "group", xs, results, op));
    first = 0;
    for (const Tensor& y : results) {
      require_reduced<T>("all_reduce_group", y, op, comm.world_size(), first);
      first += y.numel();
    }
  }
}

template <typename T>
void all_reduce_groups(Communicator& comm, Memory memory) {
  all_reduce_group<T>(comm, memory, {33}, ReduceOp::sum);
  all_reduce_group<T>(comm, memory, {0, 7, 1, 1009, 0, 64, 4096}, ReduceOp::max);
  // More than one call takes, and than a bounce buffer holds.
  std::vector<std::int64_t> sizes(130, 3);
  sizes[40] = 70'001;
  all_reduce_group<T>(comm, memory, sizes, ReduceOp::sum);
}

}  // namespace peal::contract
