// The CUDA backend's entry; no_cuda.cpp is its twin where Peal is built without it.
#pragma once

#include "core/kernels/kernels.h"

namespace peal::cuda {

Kernels& kernels(const Device& device);  // throws Error(input) "built without CUDA" in the twin

}  // namespace peal::cuda
