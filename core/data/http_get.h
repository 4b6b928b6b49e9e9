// Files of a web server, read by libcurl, which only http_curl.cpp sees.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace peal {

struct HttpOptions {
  double connect_seconds = 10;  // longest wait for a connection
  double stall_seconds = 30;    // longest time in which fewer than 1 KiB come
  std::string ca_file = {};     // PEM of the authorities to trust; empty: the system's
  // Asked while a request goes on, at least once a second; true ends it.
  std::function<bool()> stopped = {};
};

struct HttpAnswer {
  enum class End {
    complete,  // all bytes came
    again,    // it may go better next time: no connection, a stall, an end too early, 408, 429, 5xx
    never,    // it will not: another 4xx, a certificate that is not trusted, a wrong redirect
    stopped,  // as `stopped` asked
  };
  End end = End::never;
  std::string problem;  // what came instead, for people
};

// Takes the next bytes. Throws what get() then throws.
using HttpSink = std::function<void(const std::byte* data, std::size_t bytes)>;

// Keeps its connection from one request to the next. One thread at a time.
class HttpClient {
 public:
  explicit HttpClient(HttpOptions options);
  ~HttpClient();

  // GET of bytes [first, end of file). Where the server sends them from 0 on, those before `first`
  // are left out. More than `limit` bytes from `first` on end it (never). At most 5 redirects, to
  // http and https only, and not from https to http. Only a body of a good answer reaches `sink`.
  HttpAnswer get(const std::string& url, std::uint64_t first, std::uint64_t limit,
                 const HttpSink& sink);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "bytes 500-999/1234" (RFC 9110, 14.4): the value of Content-Range; nothing when it is anything
// else. An unknown total ("*") is 0.
struct ContentRange {
  std::uint64_t first = 0, last = 0, total = 0;
};
std::optional<ContentRange> parse_content_range(std::string_view text);

}  // namespace peal
