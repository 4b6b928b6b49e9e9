// Reads what the flight recorders of a job (comm/flight.h) have written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace peal {

// Times are microseconds of the wall clock of the rank's host, since 1970.
struct FlightFileCall {
  enum class State { queued, running, finished, failed };

  // Of the calls that all ranks make, or of those of this pair of ranks.
  std::uint64_t sequence = 0;
  int peer = -1;  // of send and recv
  State state = State::queued;
  std::string kind, name, dtype;
  std::string what;  // all_reduce "bucket 7" (sum, f32, 692 elements)
  std::string digest;
  std::int64_t elements = 0, bytes = 0, step = -1;
  std::int64_t queued_us = 0, started_us = 0, ended_us = 0;  // 0: has not come to that

  bool open() const { return state == State::running || state == State::failed; }
  bool is_pair() const { return peer >= 0; }
};

struct FlightFile {
  std::string path;
  int rank = 0, ranks = 1;
  std::string rank_name;
  std::string why;      // "failure", "SIGUSR2"
  std::string failure;  // empty: none
  std::int64_t step = -1, written_us = 0;
  double deadline_seconds = 0;
  bool elsewhere = false;  // when it failed, the rank was in a call of another communicator
  std::uint64_t made = 0, finished = 0;  // calls of both kinds since the start
  std::vector<FlightFileCall> calls;     // the newest, in the order in which they were made
  std::vector<std::size_t> of_all;       // of them, those that all ranks make

  // Each null where the file does not hold it.
  const FlightFileCall* call(std::uint64_t sequence) const;
  const FlightFileCall* call_with(int rank, std::uint64_t sequence) const;
  const FlightFileCall* open_call() const;      // that the rank is in, of either kind
  const FlightFileCall* last_finished() const;  // of either kind
  bool has_finished(std::uint64_t sequence) const;
};

// Both throw Error(input) that begins with the path, and says what is wrong and in which line.
FlightFile parse_flight_file(std::string_view text, const std::string& path);
// Every flight-rank-*.jsonl of a folder, or of its folder flight/, by rank; at least one.
std::vector<FlightFile> read_flight_files(const std::filesystem::path& folder);

}  // namespace peal
