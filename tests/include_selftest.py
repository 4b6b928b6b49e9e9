#!/usr/bin/env python3
"""A test of include_test.py: breaks a small copy of the tree in each way and demands the message."""

import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import include_test  # noqa: E402

CMAKE = "".join(
    f"peal_library({folder.split('/')[-1]} {folder} LINKS "
    + " ".join("peal_" + seen.split("/")[-1] for seen in include_test.FOLDERS[folder][1]) + ")\n"
    for folder in include_test.FOLDERS if folder not in include_test.WITHOUT_LIBRARY)

CLEAN = {
    "CMakeLists.txt": CMAKE,
    "CMakePresets.json": "{}\n",
    "README.md": "\n",
    "LICENSE": "\n",
    ".ci/run": "\n",
    ".gitignore": "/build/\n/build-*/\n",
    "build/generated.cpp": '#include "comm/communicator.h"\n',
    "core/base/log.cpp": "#include <spdlog/spdlog.h>\n#include <string>\n",
    "core/device/tensor.h": '#include <cstdint>\n\n#include "core/base/dtype.h"\n',
    "core/kernels/cpu/norm.cpp":
        '/* #include "comm/communicator.h" */\n'
        '// #include "comm/communicator.h"\n'
        '#include "core/kernels/kernels.h"\n'
        "#include <oneapi/dnnl/dnnl.hpp>\n"
        "#include <sys/mman.h>\n",
    "core/state/checkpoint.cpp": '#include "core/state/manifest.pb.h"\n',
    "core/optim/optimizer.h": '#include "core/device/tensor.h"\n',
    "comm/host.cpp": "#include <mpi.h>\n",
    "comm/mpi_comm.h": "#include <mpi.h>\n",
    "models/model.h": '#include "core/config/job.pb.h"\n',
    "launcher/cli.cpp": '#include <CLI/CLI.hpp>\n#include "models/model.h"\n',
    "examples/README.md": "\n",
    "examples/loop/train.cpp": "#include <mpi.h>\n#include <peal/comm/mpi_comm.h>\n",
    "cluster/README.md": "\n",
    "tests/graph/plan_test.cpp": '#include <gtest/gtest.h>\n#include "launcher/cli.h"\n',
}

# What is changed, and the one line that must be printed.
BREAKS = [
    ({"core/kernels/cpu/norm.cpp": "\n" * 6 + '#include "comm/communicator.h"\n'},
     "core/kernels/cpu/norm.cpp:7 includes comm/communicator.h: "
     "kernels (2) may not see comm (3)"),
    ({"core/graph/plan.h": "namespace peal {\nstruct Call {\n};\nclass Plan;\n}\n",
      "comm/call.h": "namespace peal {\nclass Plan;\nstruct Call : Arrays {\n};\n}\n"},
     "core/graph/plan.h:2 defines peal::Call, and so does comm/call.h:3"),
    ({"core/optim/sgd.cpp": '#include "core/graph/plan.h"\n'},
     "core/optim/sgd.cpp:1 includes core/graph/plan.h: optim (3) may not see graph (3)"),
    ({"core/base/text.h": '#pragma once\n  #  include "core/device/tensor.h"  // why\n'},
     "core/base/text.h:2 includes core/device/tensor.h: base (0) may not see device (1)"),
    ({"core/data/jobs.h": '#include "core/config/job.pb.h"\n'},
     "core/data/jobs.h:1 includes core/config/job.pb.h: data (2) may not see config (1)"),
    ({"launcher/cli.cpp": '#include "tests/graph/made.h"\n'},
     "launcher/cli.cpp:1 includes tests/graph/made.h: launcher (5) may not see tests (6)"),
    ({"examples/own.cpp": '#include "tests/graph/made.h"\n'},
     "examples/own.cpp:1 includes tests/graph/made.h: examples (6) may not see tests (6)"),
    ({"core/graph/plan.cpp": "#include <mpi.h>\n"},
     "core/graph/plan.cpp:1 includes mpi.h: graph (3) may not use MPI, only comm and "
     "examples may"),
    ({"core/optim/optimizer.cpp": "#include <nlohmann/json.hpp>\n"},
     "core/optim/optimizer.cpp:1 includes nlohmann/json.hpp: optim (3) may not use nlohmann-json, "
     "only data, state and launcher may"),
    ({"core/graph/plan.cpp": "#include <gtest/gtest.h>\n"},
     "core/graph/plan.cpp:1 includes gtest/gtest.h: graph (3) may not use GoogleTest, "
     "only tests may"),
    ({"comm/communicator.h": "#include <mpi.h>\n"},
     "comm/communicator.h:1 includes mpi.h: a header may not show MPI, only a source may"),
    ({"comm/mpi_comm.h": "#include <nccl.h>\n"},
     "comm/mpi_comm.h:1 includes nccl.h: a header may not show NCCL, only a source may"),
    ({"examples/loop/train.cpp": "#include <peal/tests/graph/made.h>\n"},
     "examples/loop/train.cpp:1 includes peal/tests/graph/made.h: examples (6) may not see tests (6)"),
    ({"examples/loop/train.cpp": "#include <peal/comms/buckets.h>\n"},
     "examples/loop/train.cpp:1 includes peal/comms/buckets.h: neither from the repository root nor "
     "a system header nor of a library in the table of levels"),
    ({"core/config/job.h": "#include <google/protobuf/message.h>\n"},
     "core/config/job.h:1 includes google/protobuf/message.h: a header may not show Protobuf, "
     "only a source may"),
    ({"core/base/log.cpp": "#include <boost/log.hpp>\n"},
     "core/base/log.cpp:1 includes boost/log.hpp: neither from the repository root nor a system "
     "header nor of a library in the table of levels"),
    ({"core/base/log.cpp": '#include "log.h"\n'},
     "core/base/log.cpp:1 includes log.h: neither from the repository root nor a system "
     "header nor of a library in the table of levels"),
    ({"core/base/log.cpp": "#include LOG_HEADER\n"},
     "core/base/log.cpp:1 includes LOG_HEADER: a name made by a macro cannot be checked"),
    ({"core/base/log.cpp": '#include "core/extra/a.h"\n'},
     "core/base/log.cpp:1 includes core/extra/a.h: not in a folder of the table of levels"),
    ({"core/extra/a.cpp": "\n"}, "core/extra/a.cpp: not in a folder of the table of levels"),
    ({"core/base/long.cpp": "\n" * 601},
     "core/base/long.cpp: 601 lines, at most 600; split it by family"),
    ({"tests/long.py": "\n" * 700}, "tests/long.py: 700 lines, at most 600; split it by family"),
    ({"tools/notes.txt": "\n"},
     "tools: not one of the top level's " + ", ".join(sorted(include_test.TOP_LEVEL))),
    ({"LICENSE": None}, "LICENSE: missing from the top level"),
    ({"CMakeLists.txt": CMAKE.replace("comm LINKS", "comm LINKS peal_optim")},
     "CMakeLists.txt:9 links comm to optim: comm (3) may not see optim (3)"),
    ({"CMakeLists.txt": CMAKE + "target_link_libraries(peal_data PUBLIC peal_config)\n"},
     "CMakeLists.txt:5 links data to config: data (2) may not see config (1)"),
    ({"CMakeLists.txt": CMAKE.replace("core/device LINKS peal_base", "core/device")},
     "CMakeLists.txt:2 does not link device to base, which it may include"),
    ({"CMakeLists.txt": CMAKE + "peal_library(extra core/extra)\n"},
     "CMakeLists.txt:12 peal_library of core/extra: not in the table of levels"),
    ({"CMakeLists.txt": CMAKE.replace("peal_library(models", "peal_other(models")},
     "CMakeLists.txt: no peal_library for models"),
]


def violations_of(files):
    with tempfile.TemporaryDirectory(prefix="peal_include_") as folder:
        root = Path(folder)
        for name, text in files.items():
            if text is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
        return list(include_test.violations(root))


def main():
    failures = []
    found = violations_of(CLEAN)
    if found:
        failures.append(f"a clean tree gave {found}")
    for change, expected in BREAKS:
        found = violations_of({**CLEAN, **change})
        if expected not in found:
            failures.append(f"expected: {expected}\n     got: {found}")
    for failure in failures:
        print(failure)
    print(f"{1 + len(BREAKS) - len(failures)} cases passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
