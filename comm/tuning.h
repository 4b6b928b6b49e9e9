// What `peal bench collectives --tune` has fitted, as a file.
//
// Lines `key: value`; `#` begins a comment line. First `version`,
// then for each kind of link that was measured where (hosts, ranks_per_host, cpu) and what
// (cost_model.h, seconds), such as `inside.meeting: 4.1e-07`; last `end: tuning`.
// `between.factors.ring` and the like, one number for each size, may be left out.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "comm/cost_model.h"

namespace peal {

struct FittedOn {
  int hosts = 1, ranks_per_host = 1;
  std::string cpu;
};

struct Tuning {
  static constexpr int kVersion = 1;

  CostModel costs;                          // built-in ones where nothing was fitted
  std::optional<FittedOn> inside, between;  // at least one in a file
};

// Throws Error(input) that names `where` and a line on anything but such a file: another version, a
// key that is unknown, missing or there twice, a number that is negative, not finite or above 10 s.
Tuning parse_tuning(std::string_view text, const std::string& where);
std::string print_tuning(const Tuning& tuning);

// Throws Error(input); files of more than 64 KiB and what is no file are refused unread.
Tuning read_tuning(const std::filesystem::path& path);

// $XDG_CACHE_HOME/peal/tuning, or ~/.cache/peal/tuning; empty where neither is known.
std::filesystem::path default_tuning_path();

std::string cpu_name();  // of this host

}  // namespace peal
