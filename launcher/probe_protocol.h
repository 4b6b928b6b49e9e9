// How `peal doctor` and `peal doctor --probe` speak: one line a request on the probe's standard
// input, one line of JSON an answer on its standard output, until the input ends.
//
//   {"do":"clock"}                                   {"clock":MICROSECONDS since 1970}
//   {"do":"facts","folders":[..],"names":[..]}       a host's facts (host_facts.h)
//   {"do":"write","folder":F,"token":T,"hosts":[K]}  {"trouble":""}: writes the token of host K
//   {"do":"read","folder":F,"token":T,"hosts":[..],"seconds":S}
//                                                    {"missing":[..]}: those of the hosts of which
//                                                    it sees no whole token after S seconds
//   {"do":"remove","folder":F,"token":T,"hosts":[..]}  {"trouble":""}: removes those that it sees
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace peal {

std::string clock_request();
std::string facts_request(const std::vector<std::string>& folders,
                          const std::vector<std::string>& names);

struct Tokens {
  std::string folder, token;
  std::vector<int> hosts;
};
std::string write_request(const Tokens& tokens);
std::string read_request(const Tokens& tokens, double seconds);
std::string remove_request(const Tokens& tokens);

// Answers come from another machine: each throws Error(input) at `where` for any other text.
std::int64_t parse_clock(std::string_view text, const std::string& where);
std::string parse_trouble(std::string_view text, const std::string& where);
std::vector<int> parse_missing(std::string_view text, const std::string& where);

}  // namespace peal
