#include "launcher/power_sgd.h"

#include <algorithm>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/random.h"
#include "core/kernels/kernels.h"

namespace peal {
namespace {

// Rows that are expanded at a time: the optimizer finds them in the cache.
constexpr std::int64_t kChunkValues = 32 * 1024;

std::int64_t rows_of(const Shape& shape) {
  return shape.rank() < 2 ? 1 : shape[0];
}

bool is_compressed(const Shape& shape, std::int64_t rank) {
  if (shape.rank() < 2) return false;
  const std::int64_t rows = rows_of(shape), columns = shape.numel() / std::max(rows, 1L);
  return 2 * rank * (rows + columns) <= rows * columns;
}

// A run of the arena: a parameter, or all slots.
struct Piece {
  std::string name;
  std::size_t begin = 0, end = 0;  // bytes of the arena
  std::int64_t rows = 1, columns = 0;
  bool compressed = false;
  std::size_t first = 0;   // offset of P, or of the values, in the first message, in bytes
  std::size_t second = 0;  // of Q in the second
};

// Pieces [begin, end), which travel together.
struct Group {
  std::string first_name, second_name;
  std::size_t begin = 0, end = 0;
  std::size_t first_begin = 0, first_end = 0;  // bytes of the messages
  std::size_t second_begin = 0, second_end = 0;
  Request request;
};

struct PowerLane {
  TreeNode leaves;
  Buffer gradient, micro;  // micro: parts after the first
  std::size_t taken = 0;   // pieces of the leaf at hand
  std::size_t final = 0;   // pieces taken of all leaves
};

// One message for every leaf of this rank, and how they become the rank's partial sums.
struct Messages {
  Buffer memory;
  std::size_t stride = 0;

  std::byte* of(int leaf) const { return memory.data() + static_cast<std::size_t>(leaf) * stride; }
};

}  // namespace

struct PowerSgd::Impl {
  Communicator& comm;
  PowerSgdOptions options;
  std::size_t arena_bytes;
  TreeNode block;
  std::vector<Piece> pieces;
  std::vector<Group> groups;
  std::vector<PowerLane> lanes;
  std::vector<Buffer> errors;  // by leaf of this rank
  Buffer total;
  Messages first, second;
  std::vector<TreeAdd> adds;  // of leaves, into partial sums
  std::vector<int> partials;  // leaves that then hold them
  std::vector<Tensor> views;
  std::int64_t step = 0;
  std::mutex mutex;
  std::size_t started = 0;  // groups

  int leaf_count() const { return block.end - block.begin; }
  std::int64_t rank() const { return options.rank; }

  void add_piece(const std::string& name, std::size_t offset, const Shape& shape, Arena& p,
                 Arena& q);
  void make_pieces(const ParameterTable& table);
  void make_messages();
  void start_warm();

  Tensor matrix(std::byte* arena, const Piece& piece) const {
    return {.data = arena + piece.begin, .shape = {piece.rows, piece.columns}};
  }
  Tensor p(int leaf, const Piece& piece) const {
    return {.data = first.of(leaf) + piece.first, .shape = {piece.rows, rank()}};
  }
  Tensor q(int leaf, const Piece& piece) const {
    return {.data = second.of(leaf) + piece.second, .shape = {rank(), piece.columns}};
  }

  void take(Stream& s, PowerLane& lane, int leaf, int part, std::size_t bytes_final);
  void publish(Stream& s);
  Request reduce(Stream& s, const std::string& name, const Messages& messages, std::size_t begin,
                 std::size_t end);
  void back(Stream& s, Group& group);
  void expand(Stream& s, const Piece& piece, const OnSlice& on_slice, std::size_t& given);
};

void PowerSgd::Impl::add_piece(const std::string& name, std::size_t offset, const Shape& shape,
                               Arena& p_arena, Arena& q_arena) {
  Piece piece{.name = name, .begin = offset, .end = offset};
  piece.end += static_cast<std::size_t>(shape.numel()) * sizeof(float);
  piece.rows = rows_of(shape);
  piece.columns = shape.numel() / std::max<std::int64_t>(piece.rows, 1);
  piece.compressed = is_compressed(shape, rank());
  const auto floats = [](std::int64_t n) { return static_cast<std::size_t>(n) * sizeof(float); };
  piece.first =
      p_arena.reserve(piece.compressed ? floats(piece.rows * rank()) : piece.end - piece.begin);
  piece.second = q_arena.reserve(piece.compressed ? floats(piece.columns * rank()) : 0);
  pieces.push_back(std::move(piece));
}

void PowerSgd::Impl::make_pieces(const ParameterTable& table) {
  Arena p_arena, q_arena;
  const auto close_group = [&] {
    const std::size_t index = groups.size();
    Group group{cat("bucket ", index), cat("bucket ", index, " second")};
    if (!groups.empty()) {
      group.begin = groups.back().end;
      group.first_begin = groups.back().first_end;
      group.second_begin = groups.back().second_end;
    }
    group.end = pieces.size();
    group.first_end = p_arena.size();
    group.second_end = q_arena.size();
    groups.push_back(std::move(group));
  };
  const auto slots = static_cast<std::int64_t>(table.slots_end / sizeof(float));
  add_piece("slots", 0, {slots}, p_arena, q_arena);
  std::size_t begin = 0;
  for (const ArenaEntry& entry : table.parameters) {
    add_piece(entry.name, entry.offset, entry.shape, p_arena, q_arena);
    if (pieces.back().end - begin < options.bucket_bytes) continue;
    begin = pieces.back().end;
    close_group();
  }
  if (groups.empty() || groups.back().end < pieces.size()) close_group();
  first.stride = p_arena.size();
  second.stride = q_arena.size();
}

// The leaves of this rank are partial sums of one leaf; the schedule of each maximal node joins
// them.
void PowerSgd::Impl::make_messages() {
  int most = 0;
  for (int r = 0; r < comm.world_size(); ++r) {
    const TreeNode theirs = block_of(options.virtual_ranks, comm.world_size(), r);
    most = std::max(most, theirs.end - theirs.begin);
  }
  for (Messages* messages : {&first, &second}) {
    messages->memory =
        comm.allocate(std::max(messages->stride * static_cast<std::size_t>(most), kAlignment));
  }
  for (const TreeNode& node : maximal_nodes(options.virtual_ranks, block)) {
    std::vector<TreeNode> leaves;
    for (int leaf = node.begin; leaf < node.end; ++leaf) leaves.push_back({leaf, leaf + 1});
    const int at = node.begin - block.begin;
    for (const TreeAdd& add : tree_schedule(options.virtual_ranks, leaves)) {
      adds.push_back({at + add.into, at + add.from});
    }
    partials.push_back(at);
  }
  views.resize(partials.size());
}

// The first Q: normal draws, the same on every rank.
void PowerSgd::Impl::start_warm() {
  for (const Piece& piece : pieces) {
    if (!piece.compressed) continue;
    const Random random(
        {.seed = options.seed, .site = xxh64(piece.name.data(), piece.name.size())});
    const Tensor start = q(0, piece);
    for (std::int64_t i = 0; i < start.numel(); ++i) {
      start.as<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
    }
  }
}

PowerSgd::PowerSgd(Communicator& comm, const ParameterTable& table, const PowerSgdOptions& options)
    : impl_(new Impl{comm, options, table.gradient_bytes}) {
  Impl& i = *impl_;
  i.block = block_of(options.virtual_ranks, comm.world_size(), comm.rank());
  i.make_pieces(table);
  i.make_messages();
  i.start_warm();
  i.total = Buffer(i.arena_bytes);
  for (int leaf = 0; leaf < i.leaf_count(); ++leaf) i.errors.emplace_back(i.arena_bytes);
  const int lanes = std::clamp(options.lanes, 1, i.leaf_count());
  for (int lane = 0; lane < lanes; ++lane) {
    const TreeNode part = block_of(i.leaf_count(), lanes, lane);
    i.lanes.push_back({{i.block.begin + part.begin, i.block.begin + part.end},
                       Buffer(i.arena_bytes),
                       Buffer(options.parts > 1 ? i.arena_bytes : 0)});
  }
  if (!i.options.on_lanes) {
    i.options.on_lanes = [&i](const std::function<void(int)>& work) {
      for (std::size_t lane = 0; lane < i.lanes.size(); ++lane) work(static_cast<int>(lane));
    };
  }
}

PowerSgd::~PowerSgd() = default;

int PowerSgd::lanes() const {
  return static_cast<int>(impl_->lanes.size());
}

TreeNode PowerSgd::leaves(int lane) const {
  return impl_->lanes[static_cast<std::size_t>(lane)].leaves;
}

std::size_t PowerSgd::slices() const {
  return impl_->pieces.size() + 1;
}

std::byte* PowerSgd::total() {
  return impl_->total.data();
}

std::size_t PowerSgd::bytes() const {
  std::size_t sum = impl_->total.size() + impl_->first.memory.size() + impl_->second.memory.size();
  for (const Buffer& error : impl_->errors) sum += error.size();
  for (const PowerLane& lane : impl_->lanes) sum += lane.gradient.size() + lane.micro.size();
  return sum;
}

std::byte* PowerSgd::error(int virtual_rank) {
  return impl_->errors[static_cast<std::size_t>(virtual_rank - impl_->block.begin)].data();
}

std::vector<ArenaEntry> PowerSgd::entries_with_error(const ParameterTable& table) const {
  std::vector<ArenaEntry> entries;
  for (const ArenaEntry& entry : table.parameters) {
    if (is_compressed(entry.shape, impl_->rank())) entries.push_back(entry);
  }
  return entries;
}

std::vector<NamedTensor> PowerSgd::common_state() {
  std::vector<NamedTensor> list;
  for (const Piece& piece : impl_->pieces) {
    if (piece.compressed) list.push_back({"q/" + piece.name, impl_->q(0, piece)});
  }
  return list;
}

void PowerSgd::begin_step(std::int64_t step) {
  impl_->step = step;
  impl_->started = 0;
  for (PowerLane& lane : impl_->lanes) lane.taken = lane.final = 0;
}

std::byte* PowerSgd::target(int lane, int, int part) {
  PowerLane& at = impl_->lanes[static_cast<std::size_t>(lane)];
  return part == 0 ? at.gradient.data() : at.micro.data();
}

void PowerSgd::ready(Stream& s, int lane, int leaf, int part, std::size_t bytes_final) {
  if (part + 1 < impl_->options.parts) return;
  impl_->take(s, impl_->lanes[static_cast<std::size_t>(lane)], leaf, part, bytes_final);
}

void PowerSgd::end_part(Stream& s, int lane, int leaf, int part) {
  PowerLane& at = impl_->lanes[static_cast<std::size_t>(lane)];
  if (part + 1 == impl_->options.parts) {
    impl_->take(s, at, leaf, part, impl_->arena_bytes);
    at.taken = 0;
  } else if (part > 0) {
    const Shape all{static_cast<std::int64_t>(impl_->arena_bytes / sizeof(float))};
    kernels(s.device())
        .accumulate(s, {.data = at.micro.data(), .shape = all},
                    {.data = at.gradient.data(), .shape = all});
  }
}

// Of the leaf's last part, the pieces that have become final go into its messages, while the
// gradient is still in the cache.
void PowerSgd::Impl::take(Stream& s, PowerLane& lane, int leaf, int part, std::size_t bytes_final) {
  Kernels& device = kernels(s.device());
  const int at = leaf - block.begin;
  const std::size_t before = lane.taken;
  for (; lane.taken < pieces.size() && pieces[lane.taken].end <= bytes_final; ++lane.taken) {
    const Piece& piece = pieces[lane.taken];
    const Tensor gradient = matrix(lane.gradient.data(), piece);
    if (part > 0) device.accumulate(s, matrix(lane.micro.data(), piece), gradient);
    if (piece.compressed) {
      std::byte* error = errors[static_cast<std::size_t>(at)].data();
      device.low_rank_project(s, gradient, q(0, piece), matrix(error, piece), p(at, piece));
    } else {
      device.copy(s, gradient, {.data = first.of(at) + piece.first, .shape = gradient.shape});
    }
  }
  if (leaf + 1 != lane.leaves.end || lane.taken == before) return;
  const std::lock_guard lock(mutex);
  lane.final = lane.taken;
  publish(s);
}

// Groups of which every lane has taken all pieces begin to travel.
void PowerSgd::Impl::publish(Stream& s) {
  std::size_t final = pieces.size();
  for (const PowerLane& lane : lanes) final = std::min(final, lane.final);
  for (; started < groups.size() && groups[started].end <= final; ++started) {
    Group& group = groups[started];
    group.request = reduce(s, group.first_name, first, group.first_begin, group.first_end);
  }
}

// Bytes [begin, end) of all leaves' messages; the sum lands in that of this rank's first.
Request PowerSgd::Impl::reduce(Stream& s, const std::string& name, const Messages& messages,
                               std::size_t begin, std::size_t end) {
  const Shape shape{static_cast<std::int64_t>((end - begin) / sizeof(float))};
  const auto view = [&](int leaf) -> Tensor {
    return {.data = messages.of(leaf) + begin, .shape = shape};
  };
  for (const TreeAdd& add : adds) {
    kernels(s.device()).accumulate(s, view(add.from), view(add.into));
  }
  for (std::size_t i = 0; i < partials.size(); ++i) views[i] = view(partials[i]);
  return comm.all_reduce_tree(s, name, options.virtual_ranks, views, views[0]);
}

void PowerSgd::finish(Stream& s, const OnSlice& on_slice) {
  Impl& i = *impl_;
  if (i.started != i.groups.size()) {
    fail_internal("power_sgd", "finish after ", i.started, " of ", i.groups.size(),
                  " groups were ready");
  }
  for (Group& group : i.groups) {
    i.comm.wait(s, group.request);
    i.back(s, group);
  }
  std::size_t given = 0;
  for (Group& group : i.groups) {
    i.comm.wait(s, group.request);
    for (std::size_t k = group.begin; k < group.end; ++k) i.expand(s, i.pieces[k], on_slice, given);
  }
  if (on_slice && given < i.arena_bytes) on_slice(given, i.arena_bytes);
}

// P has come: every leaf's part of Q leaves.
void PowerSgd::Impl::back(Stream& s, Group& group) {
  group.request = {};
  if (group.second_begin == group.second_end) return;
  Kernels& device = kernels(s.device());
  for (std::size_t k = group.begin; k < group.end; ++k) {
    const Piece& piece = pieces[k];
    if (!piece.compressed) continue;
    const RandomKey key{.seed = options.seed,
                        .step = static_cast<std::uint64_t>(step) + 1,
                        .site = xxh64(piece.name.data(), piece.name.size())};
    device.orthonormalize(s, key, p(0, piece));
  }
  const auto work = [&](int lane) {
    const TreeNode leaves = lanes[static_cast<std::size_t>(lane)].leaves;
    for (int leaf = leaves.begin - block.begin; leaf < leaves.end - block.begin; ++leaf) {
      for (std::size_t k = group.begin; k < group.end; ++k) {
        const Piece& piece = pieces[k];
        if (!piece.compressed) continue;
        const Tensor m = matrix(errors[static_cast<std::size_t>(leaf)].data(), piece);
        device.low_rank_project_back(s, m, p(0, piece), q(leaf, piece));
      }
    }
  };
  options.on_lanes(std::ref(work));  // a std::function of the lambda would take memory
  group.request = reduce(s, group.second_name, second, group.second_begin, group.second_end);
}

// Q has come: the gradient of the step, and what it leaves out. `given` is the end of the last
// slice.
void PowerSgd::Impl::expand(Stream& s, const Piece& piece, const OnSlice& on_slice,
                            std::size_t& given) {
  Kernels& device = kernels(s.device());
  const auto give = [&](std::size_t end) {
    if (on_slice && end > given) on_slice(given, end);
    given = std::max(given, end);
  };
  if (!piece.compressed) {
    const Tensor to = matrix(total.data(), piece);
    device.copy(s, {.data = first.of(0) + piece.first, .shape = to.shape}, to);
    return give(piece.end);
  }
  const float share = 1.0f / static_cast<float>(options.virtual_ranks);
  const std::int64_t most = std::max<std::int64_t>(kChunkValues / piece.columns, 1);
  for (std::int64_t row = 0; row < piece.rows; row += most) {
    const std::int64_t rows = std::min(most, piece.rows - row);
    const std::size_t begin =
        piece.begin + static_cast<std::size_t>(row * piece.columns) * sizeof(float);
    const Shape shape{rows, piece.columns};
    const Tensor some{.data = p(0, piece).as<float>() + row * rank(), .shape = {rows, rank()}};
    const Tensor y{.data = total.data() + begin, .shape = shape};
    device.low_rank_expand(s, some, q(0, piece), y);
    for (const Buffer& error : errors) {
      device.subtract_scaled(s, share, y, {.data = error.data() + begin, .shape = shape});
    }
    give(begin + y.bytes());
  }
}

void check_power_sgd(const ParameterTable& table, int rank) {
  for (const ArenaEntry& entry : table.parameters) {
    if (is_compressed(entry.shape, rank)) return;
  }
  fail_input("parallel.compression.power_sgd.rank", rank,
             " halves no parameter of this model: that needs one of (R, C) with 2 * rank * (R + C) "
             "<= R * C; write a smaller rank, or another of f16, bf16, int8");
}

}  // namespace peal
