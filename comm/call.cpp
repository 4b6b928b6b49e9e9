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

}  // namespace

void set_name(CallRecord& record, std::string_view name) {
  copy_text(record.name, name);
  const std::int64_t fields[] = {record.count,
                                 record.parameter,
                                 static_cast<std::int64_t>(record.kind),
                                 static_cast<std::int64_t>(record.op),
                                 static_cast<std::int64_t>(record.dtype),
                                 static_cast<std::int64_t>(record.algorithm)};
  record.digest = xxh64(name.data(), name.size(), xxh64(fields, sizeof fields));
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
  const bool reduces =
      record.kind == CallKind::all_reduce || record.kind == CallKind::reduce_scatter;
  if (reduces) add(std::string(name_of(record.op)));
  if (record.algorithm != Algorithm::automatic) add(std::string(name_of(record.algorithm)));
  if (record.kind == CallKind::broadcast) add(cat("root ", record.parameter));
  if (record.kind == CallKind::all_reduce_tree) add(cat(record.parameter, " virtual ranks"));
  if (record.kind == CallKind::barrier) return short_name(record);
  add(std::string(name_of(record.dtype)));
  add(cat(record.count, " elements"));
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

void throw_cause(const Cause& cause) {
  throw Error(kind_of(cause.exit_code), cause.where.data(), cause.message.data());
}

void throw_mismatch(const std::string& name_a, const CallRecord& a, const std::string& name_b,
                    const CallRecord& b) {
  throw Error(ErrorKind::numeric, "ranks out of step",
              cat("call ", a.sequence, " is ", long_name(a), " on ", name_a, " but ", long_name(b),
                  " on ", name_b, "; every rank must make the same calls in the same order"));
}

}  // namespace peal
