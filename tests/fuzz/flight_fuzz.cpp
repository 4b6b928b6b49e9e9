// Any bytes are a flight record or an Error(input), with and without the last line that they need
// to get past the first test; whatever reads can be judged, alone and beside itself.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "launcher/flight_verdict.h"

namespace {

void read(const std::string& text) {
  try {
    const peal::FlightFile file = peal::parse_flight_file(text, "fuzz");
    if (file.rank >= file.ranks || file.calls.size() > file.made) std::abort();
    for (const peal::FlightFileCall& call : file.calls) {
      const peal::FlightFileCall* found =
          call.is_pair() ? file.call_with(call.peer, call.sequence) : file.call(call.sequence);
      if (found != &call) std::abort();
    }
    if (file.ranks > 64) return;  // every missing rank is listed
    peal::FlightFile other = file;
    other.rank = file.rank + 1;
    other.ranks = file.ranks + 1;
    if (!other.calls.empty()) {
      if (!other.calls.back().is_pair()) other.of_all.pop_back();
      other.calls.pop_back();
    }
    other.made = file.made - (file.calls.size() - other.calls.size());
    other.finished = std::min(other.finished, other.made);
    if (peal::judge_flight({file}).sentence.empty()) std::abort();
    if (peal::judge_flight({file, other}).sentence.empty()) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || error.where() != "fuzz") std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  read(text);
  const auto lines = std::count(text.begin(), text.end(), '\n');
  text += peal::cat("{\"calls\":", lines - 1, ",\"xxh64\":\"",
                    peal::hex(peal::xxh64(text.data(), text.size())), "\"}\n");
  read(text);
  return 0;
}
