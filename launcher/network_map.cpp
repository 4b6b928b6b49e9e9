#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "launcher/doctor_network.h"
#include "launcher/host_facts.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostMapped = 4096;
constexpr double kLateFactor = 5, kLateSeconds = 0.001;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Usual {
  double seconds = 0, bytes_per_second = 0;
};

Usual usual(const NetworkMap& map) {
  const std::size_t n = map.hosts.size();
  std::vector<double> quickest, widest;
  for (std::size_t a = 0; a < n; ++a) {
    double seconds = INFINITY, speed = 0;
    for (std::size_t b = 0; b < n; ++b) {
      for (const LinkSpeed& link : {map.link(a, b), map.link(b, a)}) {
        if (link.bytes_per_second <= 0) continue;
        seconds = std::min(seconds, link.seconds);
        speed = std::max(speed, link.bytes_per_second);
      }
    }
    if (speed <= 0) continue;
    quickest.push_back(seconds);
    widest.push_back(speed);
  }
  return {median(quickest), median(widest)};
}

double number(const Json& value, const std::string& where) {
  if (!value.is_number()) fail_input(where, "a link's figure is no number");
  const double out = value.get<double>();
  if (!(out >= 0 && out < 1e18)) fail_input(where, "a link's figure cannot be");
  return out;
}

}  // namespace

std::string print_network_map(const NetworkMap& map) {
  Json links = Json::array();
  for (const LinkSpeed& link : map.links) links.push_back({link.seconds, link.bytes_per_second});
  return Json{{"hosts", map.hosts}, {"links", links}}.dump(-1, ' ', false,
                                                           Json::error_handler_t::replace);
}

NetworkMap parse_network_map(std::string_view text, const std::string& where) {
  const Json in = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object() || !in.contains("hosts") || !in["hosts"].is_array() ||
      in["hosts"].size() > kMostMapped || !in.contains("links") || !in["links"].is_array()) {
    fail_input(where, "is no map of a network");
  }
  NetworkMap map;
  for (const Json& host : in["hosts"]) {
    if (!host.is_string()) fail_input(where, "a host's name is no text");
    map.hosts.push_back(printable(host.get<std::string>()));
  }
  if (in["links"].size() != map.hosts.size() * map.hosts.size()) {
    fail_input(where, "does not have a link for each pair of hosts");
  }
  for (const Json& link : in["links"]) {
    if (!link.is_array() || link.size() != 2) fail_input(where, "a link is no pair of figures");
    map.links.push_back({number(link[0], where), number(link[1], where)});
  }
  return map;
}

std::vector<std::size_t> slow_links(const NetworkMap& map, double part) {
  const Usual expected = usual(map);
  std::vector<std::size_t> slow;
  for (std::size_t i = 0; i < map.links.size(); ++i) {
    const LinkSpeed& link = map.links[i];
    if (link.bytes_per_second <= 0) continue;
    if (link.bytes_per_second < part * expected.bytes_per_second ||
        link.seconds > kLateFactor * expected.seconds + kLateSeconds) {
      slow.push_back(i);
    }
  }
  return slow;
}

}  // namespace peal
