// What ranks bring to an agreement, as it travels, and who brings something else.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace peal {

// A text behind its length. take_text removes it from the front of `in`; of bytes that something
// else wrote it makes some text or other, never more than there is.
void append_text(std::string& out, std::string_view text);
std::string take_text(std::string_view& in);

std::string pack_facts(const std::vector<Fact>& facts);

// packed[r]: what rank r brought. Throws Error(numeric) that names the odd rank out (the minority,
// or the higher ranks on a tie), the fact and both values; returns when no fact differs.
void compare_facts(const std::vector<std::string>& rank_names,
                   const std::vector<std::string>& packed);

}  // namespace peal
