#include "core/optim/optimizer.h"
