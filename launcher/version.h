#pragma once

#include <string>

namespace peal {

// Of this program: "0.1.0 (sources 0f3a..., compiler 12.2.0)". Ranks that train together have the
// same.
std::string build();
std::string version();  // with the libraries: "0.1.0 (...), oneDNN 3.0.0 (...)"

}  // namespace peal
