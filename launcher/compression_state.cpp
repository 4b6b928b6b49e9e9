#include "launcher/compression_state.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "comm/tree.h"
#include "comm/wire.h"
#include "core/base/error.h"

namespace peal {
namespace {

constexpr std::string_view kError = "error.";

// error.V/NAME -> V, NAME; V is -1 for every other name.
struct ErrorName {
  int virtual_rank = -1;
  std::string_view parameter;
};

ErrorName parse(std::string_view name) {
  if (!name.starts_with(kError)) return {};
  name.remove_prefix(kError.size());
  const std::size_t slash = name.find('/');
  ErrorName found;
  const char* end = name.data() + std::min(slash, name.size());
  const auto [stop, code] = std::from_chars(name.data(), end, found.virtual_rank);
  if (slash == std::string_view::npos || code != std::errc() || stop != end) return {};
  found.parameter = name.substr(slash + 1);
  return found;
}

}  // namespace

CompressionState::CompressionState(Communicator& comm, const ParameterTable& table,
                                   int virtual_ranks, GradientSum& sum)
    : comm_(comm),
      sum_(sum),
      virtual_ranks_(virtual_ranks),
      arena_bytes_(table.gradient_bytes),
      entries_(sum.entries_with_error(table)) {
  if (comm_.rank() != 0) return;
  for (int r = 1; r < comm_.world_size(); ++r) {
    for (std::size_t i = 0; i < ranges(r).size(); ++i) gathered_.emplace_back(arena_bytes_);
  }
}

std::vector<TreeNode> CompressionState::ranges(int rank) const {
  const TreeNode block = block_of(virtual_ranks_, comm_.world_size(), rank);
  std::vector<TreeNode> list;
  if (sum_.errors() == Errors::by_rank) list.push_back(block);
  if (sum_.errors() == Errors::by_virtual_rank) {
    for (int v = block.begin; v < block.end; ++v) list.push_back({v, v + 1});
  }
  return list;
}

Tensor CompressionState::bytes(std::byte* arena) const {
  return {.data = arena, .shape = {static_cast<std::int64_t>(arena_bytes_)}, .dtype = DType::u8};
}

std::vector<NamedTensor> CompressionState::tensors() {
  std::vector<NamedTensor> list = sum_.common_state();
  std::size_t next = 0;
  for (int r = 0; r < comm_.world_size(); ++r) {
    for (const TreeNode& range : ranges(r)) {
      std::byte* arena = r == 0 ? sum_.error(range.begin) : gathered_[next++].data();
      for (const ArenaEntry& entry : entries_) {
        list.push_back({cat(kError, range.begin, "/", entry.name),
                        {.data = arena + entry.offset, .shape = entry.shape}});
      }
    }
  }
  return list;
}

void CompressionState::collect(Stream& s) {
  if (comm_.rank() != 0) {
    for (const TreeNode& range : ranges(comm_.rank())) {
      comm_.wait(s, comm_.send(s, "compression error", bytes(sum_.error(range.begin)), 0));
    }
    return;
  }
  std::size_t next = 0;
  for (int r = 1; r < comm_.world_size(); ++r) {
    for (std::size_t i = 0; i < ranges(r).size(); ++i) {
      std::byte* arena = gathered_[next++].data();
      comm_.wait(s, comm_.recv(s, "compression error", bytes(arena), r));
    }
  }
}

void CompressionState::check(const std::vector<NamedTensor>& saved, const std::string& file) {
  const std::vector<NamedTensor> common = sum_.common_state();
  const auto shape_of = [&](const std::string& name) -> const Shape* {
    for (const NamedTensor& t : common) {
      if (t.name == name) return &t.tensor.shape;
    }
    const ErrorName error = parse(name);
    if (error.virtual_rank < 0 || error.virtual_rank >= virtual_ranks_) return nullptr;
    for (const ArenaEntry& entry : entries_) {
      if (entry.name == error.parameter) return &entry.shape;
    }
    return nullptr;
  };
  std::size_t found = 0, errors = 0;
  for (const NamedTensor& t : saved) {
    const Shape* shape = shape_of(t.name);
    if (shape == nullptr) fail_input(file, "tensor \"", t.name, "\" is no state of this job");
    if (*shape != t.tensor.shape || t.tensor.dtype != DType::f32) {
      fail_input(file, "tensor \"", t.name, "\" is ", name_of(t.tensor.dtype), " ", t.tensor.shape,
                 " in the file and f32 ", *shape, " in this job");
    }
    ++(std::string_view(t.name).starts_with(kError) ? errors : found);
  }
  if (found != common.size()) {
    fail_input(file, "holds ", found, " matrices of power_sgd; this job has ", common.size());
  }
  const bool all = sum_.errors() == Errors::by_virtual_rank;
  const std::size_t wanted = entries_.size() * (all ? static_cast<std::size_t>(virtual_ranks_) : 1);
  if (errors < wanted) {
    fail_input(file, "holds ", errors, " errors of gradients; this job has ", wanted);
  }
}

void CompressionState::add_up(const std::vector<NamedTensor>& saved, TreeNode range,
                              std::byte* arena) const {
  std::memset(arena, 0, arena_bytes_);
  for (const NamedTensor& t : saved) {
    const ErrorName error = parse(t.name);
    if (error.virtual_rank < range.begin || error.virtual_rank >= range.end) continue;
    for (const ArenaEntry& entry : entries_) {
      if (entry.name != error.parameter) continue;
      add_f32(t.tensor.as<const float>(), reinterpret_cast<float*>(arena + entry.offset),
              static_cast<std::size_t>(entry.shape.numel()));
    }
  }
}

void CompressionState::restore(Stream& s, const std::vector<NamedTensor>& saved) {
  for (const NamedTensor& mine : sum_.common_state()) {
    for (const NamedTensor& t : saved) {
      if (t.name == mine.name) std::memcpy(mine.tensor.data, t.tensor.data, t.tensor.bytes());
    }
    comm_.wait(s, comm_.broadcast(s, mine.name, mine.tensor, /*root=*/0));
  }
  const bool gives = comm_.rank() == 0;
  std::size_t next = 0;
  for (int r = 0; r < comm_.world_size(); ++r) {
    if (!gives && r != comm_.rank()) continue;
    for (const TreeNode& range : ranges(r)) {
      if (!gives) {
        comm_.wait(s, comm_.recv(s, "compression error", bytes(sum_.error(range.begin)), 0));
      } else if (r == 0) {
        add_up(saved, range, sum_.error(range.begin));
      } else {
        std::byte* arena = gathered_[next++].data();
        add_up(saved, range, arena);
        comm_.wait(s, comm_.send(s, "compression error", bytes(arena), r));
      }
    }
  }
}

}  // namespace peal
