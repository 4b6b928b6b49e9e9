// Copying to memory that nobody reads soon.
#pragma once

#include <cstddef>

namespace peal {

// As memcpy, but passes the caches by: lines of `to` are not read before they are written, which an
// array larger than the caches would pay for. Other threads see the copy once stream_fence() was
// called and then something was released to them.
void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes);
void stream_fence();

}  // namespace peal
