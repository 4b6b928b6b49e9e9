// Names of several files in one text.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace peal {

// {a,b} becomes a and b, {08..11} becomes 08, 09, 10 and 11, filled with zeros where the numbers
// are written so; several in one text multiply, the last changing fastest. Throws Error(input) that
// begins with the text for braces that do not match, nested ones, and more than 100000 names.
std::vector<std::string> expand_braces(const std::string& text);

// Every pattern's names: braces, then * and ? as a shell takes them, sorted as bytes. Throws
// Error(input) for one without a file, for a file that is named twice, and for no files at all.
std::vector<std::filesystem::path> find_files(const std::vector<std::string>& patterns,
                                              const std::string& where);

}  // namespace peal
