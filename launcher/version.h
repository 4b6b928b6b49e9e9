#pragma once

#include <string>

namespace peal {

std::string version();  // "0.1.0 (oneDNN ..., gcc 12.2.0)": equal on ranks that may train together

}  // namespace peal
