// The files that a run and a sharding leave for the next one: status.json, metrics.jsonl and
// sharding.json on any bytes are what prints to the same again, or an Error(input).
#include <cstdint>
#include <cstdlib>
#include <string>

#include "launcher/metrics.h"
#include "launcher/shard_record.h"
#include "launcher/status.h"
#include "tests/fuzz/read.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  peal::read_or_refuse("fuzz", [&] {
    const std::string printed = peal::status_json(peal::parse_status(text, "fuzz"));
    if (peal::status_json(peal::parse_status(printed, "printed")) != printed) std::abort();
  });
  peal::read_or_refuse("fuzz", [&] {
    const std::string printed = peal::format_shard_record(peal::parse_shard_record(text, "fuzz"));
    if (peal::format_shard_record(peal::parse_shard_record(printed, "printed")) != printed) {
      std::abort();
    }
  });
  const std::string kept = peal::metrics_up_to(text, 1000);
  if (peal::metrics_up_to(kept, 1000) != kept || kept.size() > text.size() + 1) std::abort();
  return 0;
}
