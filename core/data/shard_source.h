// Where the files of a set of shards come from: a folder, or a web server.
#pragma once

#include <filesystem>

#include "core/base/error.h"
#include "core/data/http_get.h"

namespace peal {

// How long and how often a source is tried.
struct RetryOptions {
  int tries = 6;                 // in a row without progress
  double backoff_seconds = 0.5;  // the first pause; each further one is twice as long, up to 30 s
  std::uint64_t seed = 0;        // of the pauses' jitter; ranks have different ones
};

class ShardSource {
 public:
  virtual ~ShardSource() = default;
  // Path or URL of a file of the set, for messages.
  virtual std::string name(const std::string& file) const = 0;
  // Gives bytes [first, end of file) to `sink`, in order and in pieces; more than `limit` is an
  // error. Throws Error(input) on what another try cannot mend.
  virtual HttpAnswer read(const std::string& file, std::uint64_t first, std::uint64_t limit,
                          const HttpSink& sink) = 0;
};

// `stopped` is asked during a read; true ends it.
std::unique_ptr<ShardSource> folder_source(std::filesystem::path folder,
                                           std::function<bool()> stopped);
// `url` is that of the folder; file names are added to it, percent-encoded.
std::unique_ptr<ShardSource> http_source(std::string url, HttpOptions options);

// Counts the tries at one file and pauses between them.
class Retries {
 public:
  // `stopped` ends a pause.
  Retries(const RetryOptions& options, std::string where, std::function<bool()> stopped);

  // After a try that failed with `problem`. `progress`: bytes came that count, so that tries are
  // counted anew. Pauses; throws Error(peer) that names the place, what came and how often it was
  // tried when that was the last try, Error(internal) when stopped.
  void again(const std::string& problem, bool progress);
  // The same for bytes that came and were wrong: progress does not help, and it ends in
  // Error(input).
  void wrong(const std::string& problem);
  // After a try that no other can mend.
  [[noreturn]] void never(const std::string& problem);
  [[noreturn]] void stop() const;

 private:
  [[noreturn]] void give_up(ErrorKind kind, const std::string& problem) const;
  void pause(int in_a_row) const;

  RetryOptions options_;
  std::string where_;
  std::function<bool()> stopped_;
  int tries_ = 0, in_a_row_ = 0, wrong_ = 0;
};

// The text of the set's manifest, which is one when it can be parsed; throws as Retries does.
std::string fetch_manifest(ShardSource& source, const RetryOptions& options,
                           const std::function<bool()>& stopped);

}  // namespace peal
