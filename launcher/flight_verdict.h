// What the flight records of all ranks say together: who is late, in what call, since when.
#pragma once

#include "launcher/flight_files.h"

namespace peal {

struct FlightVerdict {
  enum class Kind {
    mismatch,  // ranks made different calls
    late,      // some ranks wait in a call that others have not come to
    stuck,     // all are in the same call and it does not end
    crossed,   // ranks wait for each other in different calls
    ended,     // the job ended itself, and nobody had waited long
    clear      // nobody had waited long
  };
  Kind kind = Kind::clear;
  std::string sentence;
  std::vector<std::string> details;  // more lines for people

  std::uint64_t call = 0;  // number of the call in question; 0: none was open
  std::vector<int> pair;   // the two ranks that make it; empty: all do
  std::string what;        // it in words
  std::int64_t since_us = 0;
  double waited_seconds = 0;
  std::vector<int> late;            // of mismatch: the odd ranks out
  std::vector<int> missing;         // no file, or one from before that call
  std::vector<int> waiting;         // in the call, and came in time
  std::vector<int> ahead;           // have finished it
  std::vector<std::string> causes;  // what ranks failed with; the first to fail first
};

FlightVerdict judge_flight(const std::vector<FlightFile>& files);

std::string_view name_of(FlightVerdict::Kind kind);
std::string wall_time(std::int64_t microseconds);  // 2026-11-25 16:03:04.123 UTC

}  // namespace peal
