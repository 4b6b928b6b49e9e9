#include "core/state/checkpoint.h"
