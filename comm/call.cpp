#include "comm/call.h"

#include <algorithm>
#include <cstring>

#include "core/base/checksum.h"
#include "core/base/error.h"

namespace peal {

std::string_view name_of(CallKind kind) {
  switch (kind) {
    case CallKind::all_reduce:
      return "all_reduce";
    case CallKind::all_reduce_tree:
      return "all_reduce_tree";
    case CallKind::reduce_scatter:
      return "reduce_scatter";
    case CallKind::all_gather:
      return "all_gather";
    case CallKind::broadcast:
      return "broadcast";
    case CallKind::barrier:
      return "barrier";
    case CallKind::reduce:
      return "reduce";
    case CallKind::gather:
      return "gather";
    case CallKind::scatter:
      return "scatter";
    case CallKind::all_to_all:
      return "all_to_all";
    case CallKind::send:
      return "send";
    case CallKind::recv:
      return "recv";
    case CallKind::reduce_scatter_tree:
      return "reduce_scatter_tree";
  }
  return "call";
}

namespace {

std::string_view name_of(ReduceOp op) {
  constexpr std::string_view names[] = {"sum", "mean", "min", "max", "product"};
  return names[static_cast<int>(op)];
}

std::string_view name_of(Algorithm algorithm) {
  constexpr std::string_view names[] = {"automatic", "ring", "ordered_tree"};
  return names[static_cast<int>(algorithm)];
}

template <std::size_t N>
void copy_text(std::array<char, N>& to, std::string_view from) {
  const std::size_t bytes = std::min(from.size(), N - 1);
  std::memcpy(to.data(), from.data(), bytes);
  std::memset(to.data() + bytes, 0, N - bytes);
}

ErrorKind kind_of(int code) {
  if (code == peal::exit_code(ErrorKind::input)) return ErrorKind::input;
  if (code == peal::exit_code(ErrorKind::numeric)) return ErrorKind::numeric;
  return ErrorKind::peer;
}

bool reduces(CallKind kind) {
  return kind == CallKind::all_reduce || kind == CallKind::reduce_scatter ||
         kind == CallKind::reduce;
}

bool has_root(CallKind kind) {
  return kind == CallKind::broadcast || kind == CallKind::reduce || kind == CallKind::gather ||
         kind == CallKind::scatter;
}

// "10 elements", "10 elements in blocks of 3, 5, 2"
std::string describe_sizes(const CallRecord& record) {
  if (record.kind == CallKind::all_to_all && record.blocks > 0) return "ragged";
  std::string text = cat(record.count, " elements");
  if (record.blocks == 0) return text;
  text += record.kind == CallKind::all_reduce ? " in tensors of " : " in blocks of ";
  const int named = std::min(record.blocks, static_cast<int>(record.first_blocks.size()));
  for (int i = 0; i < named; ++i) {
    text += cat(i > 0 ? ", " : "", record.first_blocks[static_cast<std::size_t>(i)]);
  }
  if (named == record.blocks) return text;
  return cat(text, " and ", record.blocks - named, " more (digest ", record.blocks_digest, ")");
}

}  // namespace

Slice Call::outgoing(int me, int to) const {
  const int root = record.parameter;
  switch (record.kind) {
    case CallKind::all_gather:
      return {0, block(me).size()};
    case CallKind::gather:
      return to == root ? Slice{0, block(me).size()} : Slice{};
    case CallKind::scatter:
      return me == root ? block(to) : Slice{};
    case CallKind::all_to_all:
      return block(to);
    default:
      return {};
  }
}

Slice Call::incoming(int me, int from) const {
  const int root = record.parameter;
  switch (record.kind) {
    case CallKind::all_gather:
      return block(from);
    case CallKind::gather:
      return me == root ? block(from) : Slice{};
    case CallKind::scatter:
      return from == root ? Slice{0, block(me).size()} : Slice{};
    case CallKind::all_to_all:
      return block(bounds == nullptr ? from : record.blocks + 1 + from);
    case CallKind::broadcast:
      return from == root && me != root ? Slice{0, count()} : Slice{};
    default:
      return {};
  }
}

void set_blocks(CallRecord& record, const std::int64_t* bounds, int blocks) {
  record.blocks = blocks;
  if (record.kind == CallKind::all_to_all) return;
  record.count = bounds[blocks];
  record.blocks_digest = xxh64(bounds, (static_cast<std::size_t>(blocks) + 1) * sizeof *bounds);
  for (int i = 0; i < std::min(blocks, static_cast<int>(record.first_blocks.size())); ++i) {
    record.first_blocks[static_cast<std::size_t>(i)] = bounds[i + 1] - bounds[i];
  }
}

// A send and its recv have the same digest.
void set_name(CallRecord& record, std::string_view name) {
  copy_text(record.name, name);
  if (record.kind == CallKind::send || record.kind == CallKind::recv) {
    const std::int64_t shared[] = {record.count, static_cast<std::int64_t>(record.dtype)};
    record.digest = xxh64(name.data(), name.size(), xxh64(shared, sizeof shared));
    return;
  }
  const std::int64_t fields[] = {record.count,
                                 record.parameter,
                                 record.blocks,
                                 static_cast<std::int64_t>(record.blocks_digest),
                                 static_cast<std::int64_t>(record.kind),
                                 static_cast<std::int64_t>(record.op),
                                 static_cast<std::int64_t>(record.dtype),
                                 static_cast<std::int64_t>(record.algorithm)};
  record.digest = xxh64(name.data(), name.size(), xxh64(fields, sizeof fields));
}

bool set_name_like(CallRecord& record, std::string_view name, const CallRecord& earlier) {
  const bool same = record.kind == earlier.kind && record.op == earlier.op &&
                    record.dtype == earlier.dtype && record.algorithm == earlier.algorithm &&
                    record.count == earlier.count && record.parameter == earlier.parameter &&
                    record.blocks == earlier.blocks &&
                    record.blocks_digest == earlier.blocks_digest && name == earlier.name.data();
  // A name that was cut, or has a zero in it, is not all in the record.
  if (!same || name.size() + 1 >= earlier.name.size() || earlier.digest == 0) return false;
  record.digest = earlier.digest;
  record.name = earlier.name;
  return true;
}

std::string short_name(const CallRecord& record) {
  return cat(name_of(record.kind), " \"", record.name.data(), "\"");
}

std::string long_name(const CallRecord& record) {
  std::string detail;
  const auto add = [&](const std::string& text) {
    if (!detail.empty()) detail += ", ";
    detail += text;
  };
  if (reduces(record.kind)) add(std::string(name_of(record.op)));
  if (record.algorithm != Algorithm::automatic) add(std::string(name_of(record.algorithm)));
  if (has_root(record.kind)) add(cat("root ", record.parameter));
  if (record.kind == CallKind::send) add(cat("to rank ", record.parameter));
  if (record.kind == CallKind::recv) add(cat("from rank ", record.parameter));
  const bool tree =
      record.kind == CallKind::all_reduce_tree || record.kind == CallKind::reduce_scatter_tree;
  if (tree) add(cat(record.parameter, " virtual ranks"));
  if (record.kind == CallKind::barrier) return short_name(record);
  add(std::string(name_of(record.dtype)));
  add(describe_sizes(record));
  return cat(short_name(record), " (", detail, ")");
}

Cause make_cause(int rank, int code, std::string_view where, std::string_view message) {
  Cause cause;
  cause.rank = rank;
  cause.exit_code = code;
  copy_text(cause.where, where);
  copy_text(cause.message, message);
  return cause;
}

Error error_of(const Cause& cause) {
  return Error(kind_of(cause.exit_code), cause.where.data(), cause.message.data());
}

void throw_cause(const Cause& cause) {
  throw error_of(cause);
}

bool matches(const CallRecord& a, const CallRecord& b) {
  return a.kind != b.kind && a.digest == b.digest;
}

void throw_mismatch(const std::string& name_a, const CallRecord& a, const std::string& name_b,
                    const CallRecord& b) {
  throw Error(ErrorKind::numeric, "ranks out of step",
              cat("call ", a.sequence, " is ", long_name(a), " on ", name_a, " but ", long_name(b),
                  " on ", name_b, "; every rank must make the same calls in the same order"));
}

}  // namespace peal
