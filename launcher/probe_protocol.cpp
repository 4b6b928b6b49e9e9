#include "launcher/probe_protocol.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "launcher/host_facts.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMostHosts = 1 << 20;

Json about(const char* what, const Tokens& tokens) {
  return {
      {"do", what}, {"folder", tokens.folder}, {"token", tokens.token}, {"hosts", tokens.hosts}};
}

Json object_of(std::string_view text, const std::string& where) {
  Json parsed = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) fail_input(where, "is no JSON object");
  return parsed;
}

}  // namespace

std::string clock_request() {
  return Json{{"do", "clock"}}.dump();
}

std::string facts_request(const std::vector<std::string>& folders,
                          const std::vector<std::string>& names) {
  return Json{{"do", "facts"}, {"folders", folders}, {"names", names}}.dump();
}

std::string write_request(const Tokens& tokens) {
  return about("write", tokens).dump();
}

std::string read_request(const Tokens& tokens, double seconds) {
  Json request = about("read", tokens);
  request["seconds"] = seconds;
  return request.dump();
}

std::string remove_request(const Tokens& tokens) {
  return about("remove", tokens).dump();
}

std::int64_t parse_clock(std::string_view text, const std::string& where) {
  const Json parsed = object_of(text, where);
  const auto found = parsed.find("clock");
  if (found == parsed.end() || !found->is_number_integer()) fail_input(where, "tells no clock");
  const auto clock = found->get<std::int64_t>();
  if (clock < 0 || clock > std::int64_t{1} << 60) fail_input(where, "tells no time of day");
  return clock;
}

std::string parse_trouble(std::string_view text, const std::string& where) {
  const Json parsed = object_of(text, where);
  const auto found = parsed.find("trouble");
  if (found == parsed.end() || !found->is_string()) fail_input(where, "is no answer");
  return printable(found->get<std::string>());
}

std::vector<int> parse_missing(std::string_view text, const std::string& where) {
  const Json parsed = object_of(text, where);
  const auto found = parsed.find("missing");
  if (found == parsed.end() || !found->is_array()) fail_input(where, "is no answer");
  std::vector<int> missing;
  for (const Json& host : *found) {
    if (!host.is_number_unsigned() || host.get<std::uint64_t>() >= kMostHosts) {
      fail_input(where, "names no host");
    }
    missing.push_back(host.get<int>());
  }
  return missing;
}

}  // namespace peal
