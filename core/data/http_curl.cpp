#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <mutex>

#include "core/base/error.h"
#include "core/data/http_get.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kStallBytes = 1024;
constexpr long kRedirects = 5;

void start_library() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
      fail_internal("http", "libcurl: no start");
  });
}

template <typename Value>
void set(CURL* curl, CURLoption option, Value value) {
  const CURLcode code = curl_easy_setopt(curl, option, value);
  if (code != CURLE_OK) {
    fail_internal("http", "libcurl option ", static_cast<int>(option), ": ",
                  curl_easy_strerror(code));
  }
}

// An answer's first bytes, for a message.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) out += c >= 0x20 && c < 0x7f ? c : ' ';
  return out;
}

bool is_good(long status) {
  return status == 200 || status == 206;
}

HttpAnswer::End end_of(CURLcode code) {
  switch (code) {
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
      return HttpAnswer::End::never;
    default:
      return HttpAnswer::End::again;
  }
}

}  // namespace

// One request at a time; the callbacks are libcurl's and must not throw.
struct HttpClient::Impl {
  explicit Impl(HttpOptions given);
  ~Impl() { curl_easy_cleanup(curl); }

  static std::size_t on_header(char* data, std::size_t, std::size_t bytes, void* self);
  static std::size_t on_body(char* data, std::size_t, std::size_t bytes, void* self);
  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t);

  void take(const std::byte* data, std::size_t bytes);
  bool accept_start();
  bool must_end();
  HttpAnswer judge(CURLcode code) const;
  std::string status_text() const;

  const HttpOptions options;
  CURL* curl = nullptr;
  std::array<char, CURL_ERROR_SIZE> error{};

  const HttpSink* sink = nullptr;
  std::uint64_t first = 0, limit = 0;
  std::optional<ContentRange> range;
  std::uint64_t skip = 0, given = 0, body = 0;  // bytes still to leave out, given, of the body
  std::string beginning;                        // of a body that is not wanted
  std::string refusal;                          // why the body was refused
  std::exception_ptr thrown;
  bool stalled = false, stopped = false;
  Clock::time_point mark_time;
  std::uint64_t mark_bytes = 0;
};

HttpClient::Impl::Impl(HttpOptions given_options) : options(std::move(given_options)) {
  start_library();
  curl = curl_easy_init();
  if (curl == nullptr) fail_internal("http", "libcurl gives no handle");
  set(curl, CURLOPT_NOSIGNAL, 1L);  // other threads are at work
  set(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  set(curl, CURLOPT_FOLLOWLOCATION, 1L);
  set(curl, CURLOPT_MAXREDIRS, kRedirects);
  set(curl, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_seconds * 1000));
  set(curl, CURLOPT_USERAGENT, "peal");
  set(curl, CURLOPT_ERRORBUFFER, error.data());
  set(curl, CURLOPT_SSL_VERIFYPEER, 1L);
  set(curl, CURLOPT_SSL_VERIFYHOST, 2L);
  if (!options.ca_file.empty()) {
    set(curl, CURLOPT_CAINFO, options.ca_file.c_str());
    set(curl, CURLOPT_CAPATH, static_cast<const char*>(nullptr));
  }
  set(curl, CURLOPT_HEADERFUNCTION, &on_header);
  set(curl, CURLOPT_HEADERDATA, this);
  set(curl, CURLOPT_WRITEFUNCTION, &on_body);
  set(curl, CURLOPT_WRITEDATA, this);
  set(curl, CURLOPT_NOPROGRESS, 0L);
  set(curl, CURLOPT_XFERINFOFUNCTION, &on_progress);
  set(curl, CURLOPT_XFERINFODATA, this);
}

std::size_t HttpClient::Impl::on_header(char* data, std::size_t, std::size_t bytes, void* self) {
  auto& impl = *static_cast<Impl*>(self);
  constexpr std::string_view kName = "content-range:";
  std::string_view line(data, bytes);
  if (line.starts_with("HTTP/")) impl.range.reset();  // of the answer before a redirect
  const bool named = line.size() >= kName.size() &&
                     std::equal(kName.begin(), kName.end(), line.begin(), [](char a, char b) {
                       return a == (b | ('A' <= b && b <= 'Z' ? 32 : 0));
                     });
  if (!named) return bytes;
  line.remove_prefix(kName.size());
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
  impl.range = parse_content_range(line);
  return bytes;
}

std::size_t HttpClient::Impl::on_body(char* data, std::size_t, std::size_t bytes, void* self) {
  auto& impl = *static_cast<Impl*>(self);
  try {
    if (impl.body == 0 && !impl.accept_start()) {
      // Its beginning is told; a bad answer's rest is not read.
      impl.beginning = printable({data, std::min<std::size_t>(bytes, 60)});
      return 0;
    }
    impl.body += bytes;
    impl.take(reinterpret_cast<const std::byte*>(data), bytes);
  } catch (...) {
    impl.thrown = std::current_exception();
    return 0;
  }
  return impl.refusal.empty() ? bytes : 0;
}

// Whether the body is what was asked for, by what stands before it.
bool HttpClient::Impl::accept_start() {
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (!is_good(status)) return false;
  skip = status == 200 ? first : 0;
  if (status == 206 && (!range || range->first != first)) {
    refusal = cat("bytes from ", range ? std::to_string(range->first) : "an unknown place",
                  " on, where those from ", first, " on were asked for");
    return false;
  }
  return true;
}

void HttpClient::Impl::take(const std::byte* data, std::size_t bytes) {
  const auto left_out = static_cast<std::size_t>(std::min<std::uint64_t>(skip, bytes));
  skip -= left_out;
  data += left_out;
  bytes -= left_out;
  if (bytes > limit - given) {
    refusal = cat("more than the ", first + limit, " bytes that are allowed");
    return;
  }
  given += bytes;
  if (bytes > 0) (*sink)(data, bytes);
}

int HttpClient::Impl::on_progress(void* self, curl_off_t, curl_off_t received, curl_off_t,
                                  curl_off_t) {
  auto& impl = *static_cast<Impl*>(self);
  const auto now = Clock::now();
  const auto bytes = static_cast<std::uint64_t>(received);
  if (bytes < impl.mark_bytes || bytes - impl.mark_bytes >= kStallBytes) {
    impl.mark_bytes = bytes;
    impl.mark_time = now;
  }
  const std::chrono::duration<double> still = now - impl.mark_time;
  curl_off_t connected = 0;
  curl_easy_getinfo(impl.curl, CURLINFO_CONNECT_TIME_T, &connected);
  const double allowed =
      impl.options.stall_seconds + (connected == 0 ? impl.options.connect_seconds : 0);
  if (still.count() > allowed) impl.stalled = true;
  if (impl.options.stopped && impl.options.stopped()) impl.stopped = true;
  return impl.stalled || impl.stopped ? 1 : 0;
}

std::string HttpClient::Impl::status_text() const {
  long status = 0;
  const char* type = nullptr;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
  return cat("HTTP ", status, type == nullptr ? "" : cat(" ", printable(type)));
}

HttpAnswer HttpClient::Impl::judge(CURLcode code) const {
  using End = HttpAnswer::End;
  if (stopped) return {End::stopped, "stopped"};
  if (stalled) {
    return {End::again, cat("fewer than ", kStallBytes, " bytes in ", options.stall_seconds, " s (",
                            body, " bytes before)")};
  }
  if (!refusal.empty()) {
    return {End::again, cat(status_text(), " with ", refusal,
                            beginning.empty() ? "" : cat(": \"", beginning, "\""))};
  }
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  const bool redirected = status >= 300 && status < 400;  // to where it may not lead
  if (status != 0 && !is_good(status) && !redirected) {
    const bool passing = status == 408 || status == 429 || status >= 500;
    return {passing || status == 416 ? End::again : End::never,
            cat(status_text(), beginning.empty() ? "" : cat(": \"", beginning, "\""))};
  }
  if (code == CURLE_OK) return {End::complete, ""};
  const char* text = error[0] != '\0' ? error.data() : curl_easy_strerror(code);
  return {end_of(code), cat(text, status != 0 ? cat(" (", status_text(), ")") : "")};
}

HttpClient::HttpClient(HttpOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}

HttpClient::~HttpClient() = default;

HttpAnswer HttpClient::get(const std::string& url, std::uint64_t first, std::uint64_t limit,
                           const HttpSink& sink) {
  Impl& impl = *impl_;
  impl.sink = &sink;
  impl.first = first;
  impl.limit = limit;
  impl.range.reset();
  impl.skip = impl.given = impl.body = impl.mark_bytes = 0;
  impl.beginning.clear();
  impl.refusal.clear();
  impl.thrown = nullptr;
  impl.stalled = impl.stopped = false;
  impl.mark_time = Clock::now();
  impl.error[0] = '\0';
  set(impl.curl, CURLOPT_URL, url.c_str());
  set(impl.curl, CURLOPT_REDIR_PROTOCOLS_STR, url.starts_with("https:") ? "https" : "http,https");
  const std::string range = cat(first, "-");
  set(impl.curl, CURLOPT_RANGE, first > 0 ? range.c_str() : nullptr);
  const CURLcode code = curl_easy_perform(impl.curl);
  if (impl.thrown) std::rethrow_exception(impl.thrown);
  return impl.judge(code);
}

}  // namespace peal
