// Any text is a job or an Error(input), and a job that was read prints as one that reads the same.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/error.h"
#include "core/config/job.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    peal::JobSpec job = peal::parse_job(text, "fuzz");
    const std::string printed = peal::effective_job(job);
    if (peal::effective_job(peal::parse_job(printed, "printed")) != printed) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || error.where() == "printed") std::abort();
  }
  try {
    peal::JobSpec job;
    peal::set_field(job, text);
    peal::validate_job(job, 1, "fuzz");
  } catch (const peal::Error&) {
  }
  return 0;
}
