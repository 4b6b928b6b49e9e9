// Counts calls of operator new, for tests that forbid them.
#pragma once

#include <cstdint>
#include <functional>

namespace peal {

// Calls of operator new by `function`, on every thread. Those that oneDNN makes inside
// dnnl_primitive_execute, a handful of argument lists, are its own and are not counted.
std::int64_t count_allocations(const std::function<void()>& function);

}  // namespace peal
