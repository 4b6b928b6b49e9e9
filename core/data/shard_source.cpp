#include "core/data/shard_source.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "core/base/checksum.h"
#include "core/base/log.h"
#include "core/base/random.h"
#include "core/data/shard_format.h"

namespace peal {
namespace {

constexpr std::uint64_t kLargestManifest = std::uint64_t{64} << 20;
constexpr double kLongestPause = 30;

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

class FolderSource final : public ShardSource {
 public:
  FolderSource(std::filesystem::path folder, std::function<bool()> stopped)
      : folder_(std::move(folder)), stopped_(std::move(stopped)) {}

  std::string name(const std::string& file) const override { return (folder_ / file).string(); }

  HttpAnswer read(const std::string& file, std::uint64_t first, std::uint64_t limit,
                  const HttpSink& sink) override {
    using End = HttpAnswer::End;
    const std::string path = name(file);
    const Descriptor opened(path);
    if (opened.get() < 0) return {End::never, cat("cannot open: ", std::strerror(errno))};
    block_.resize(std::size_t{1} << 20);
    for (std::uint64_t given = 0;;) {
      if (stopped_ && stopped_()) return {End::stopped, "stopped"};
      const ssize_t n =
          ::pread(opened.get(), block_.data(), block_.size(), static_cast<off_t>(first + given));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return {End::again, cat("cannot read: ", std::strerror(errno))};
      if (n == 0) return {End::complete, ""};
      if (static_cast<std::uint64_t>(n) > limit - given) {
        return {End::again, cat("more than the ", first + limit, " bytes that are allowed")};
      }
      sink(block_.data(), static_cast<std::size_t>(n));
      given += static_cast<std::uint64_t>(n);
    }
  }

 private:
  std::filesystem::path folder_;
  std::function<bool()> stopped_;
  std::vector<std::byte> block_;
};

class HttpSource final : public ShardSource {
 public:
  HttpSource(std::string url, HttpOptions options)
      : url_(std::move(url)), client_(std::move(options)) {
    if (!url_.ends_with('/')) url_ += '/';
  }

  // RFC 3986, 2.3: what need not be encoded.
  std::string name(const std::string& file) const override {
    constexpr std::string_view kPlain =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    std::string out = url_;
    for (const char c : file) {
      if (kPlain.find(c) != std::string_view::npos) {
        out += c;
      } else {
        constexpr std::string_view kDigits = "0123456789ABCDEF";
        const auto byte = static_cast<unsigned char>(c);
        out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
      }
    }
    return out;
  }

  HttpAnswer read(const std::string& file, std::uint64_t first, std::uint64_t limit,
                  const HttpSink& sink) override {
    return client_.get(name(file), first, limit, sink);
  }

 private:
  std::string url_;
  HttpClient client_;
};

}  // namespace

std::unique_ptr<ShardSource> folder_source(std::filesystem::path folder,
                                           std::function<bool()> stopped) {
  return std::make_unique<FolderSource>(std::move(folder), std::move(stopped));
}

std::unique_ptr<ShardSource> http_source(std::string url, HttpOptions options) {
  return std::make_unique<HttpSource>(std::move(url), std::move(options));
}

Retries::Retries(const RetryOptions& options, std::string where, std::function<bool()> stopped)
    : options_(options), where_(std::move(where)), stopped_(std::move(stopped)) {}

void Retries::again(const std::string& problem, bool progress) {
  ++tries_;
  in_a_row_ = progress ? 1 : in_a_row_ + 1;
  if (in_a_row_ >= options_.tries) give_up(ErrorKind::peer, problem);
  log::info(cat(where_, ": ", problem, "; trying again"));
  pause(in_a_row_);
}

void Retries::wrong(const std::string& problem) {
  ++tries_;
  if (++wrong_ >= options_.tries) give_up(ErrorKind::input, problem);
  log::info(cat(where_, ": ", problem, "; trying again"));
  pause(wrong_);
}

void Retries::never(const std::string& problem) {
  ++tries_;
  give_up(ErrorKind::input, problem);
}

void Retries::give_up(ErrorKind kind, const std::string& problem) const {
  throw Error(kind, where_, cat(problem, "; tried ", tries_, tries_ == 1 ? " time" : " times"));
}

void Retries::stop() const {
  throw Error(
      ErrorKind::internal, where_,
      "stopped before all of it had come; what came stays in the cache, and the same command "
      "goes on from there");
}

// Exponential, and between half and all of that: ranks that failed together do not come back
// together.
void Retries::pause(int in_a_row) const {
  const double longest =
      std::min(options_.backoff_seconds * std::exp2(std::min(in_a_row - 1, 30)), kLongestPause);
  const Random random({.seed = options_.seed, .stream = xxh64(where_.data(), where_.size())});
  const double seconds = longest * (0.5 + 0.5 * random.uniform(static_cast<std::uint64_t>(tries_)));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    if (stopped_ && stopped_()) stop();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

std::string fetch_manifest(ShardSource& source, const RetryOptions& options,
                           const std::function<bool()>& stopped) {
  const std::string where = source.name(kShardManifestName);
  Retries retries(options, where, stopped);
  for (;;) {
    std::string text;
    const HttpAnswer answer = source.read(kShardManifestName, 0, kLargestManifest,
                                          [&](const std::byte* data, std::size_t bytes) {
                                            text.append(reinterpret_cast<const char*>(data), bytes);
                                          });
    switch (answer.end) {
      case HttpAnswer::End::stopped:
        retries.stop();
      case HttpAnswer::End::never:
        retries.never(answer.problem);
      case HttpAnswer::End::again:
        retries.again(answer.problem, /*progress=*/false);
        continue;
      case HttpAnswer::End::complete:
        break;
    }
    try {
      parse_shard_manifest(text, where);
      return text;
    } catch (const Error& error) {
      retries.wrong(cat("is no manifest of shards: ", error.what()));
    }
  }
}

}  // namespace peal
