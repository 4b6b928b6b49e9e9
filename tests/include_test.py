#!/usr/bin/env python3
"""Holds the levels of the source tree and names every include, link or file that breaks them.

usage: include_test.py [ROOT]

Levels: a folder may include only the folders in its row of FOLDERS. A library's header may stand
only in the sources (never in the headers) of the folders in its row of LIBRARIES. CMake's
peal_library calls must link the same edges. No two headers define a type of one name. No file is over MAX_LINES lines, and the top level
holds what TOP_LEVEL says. Prints one line a violation and returns 1 when there is any.
"""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

# folder: (level, what it may include besides itself). The table is also in the design; a new
# folder is a new row here and a peal_library in CMakeLists.txt.
FOLDERS = {
    "core/base": (0, []),
    "core/device": (1, ["core/base"]),
    "core/config": (1, ["core/base"]),
    "core/kernels": (2, ["core/base", "core/device"]),
    "core/data": (2, ["core/base", "core/device"]),
    "core/state": (2, ["core/base", "core/device", "core/config"]),
    "core/graph": (3, ["core/base", "core/device", "core/kernels"]),
    "core/optim": (3, ["core/base", "core/device", "core/kernels"]),
    "comm": (3, ["core/base", "core/device"]),
    "models": (4, ["core/base", "core/config", "core/graph"]),
}
FOLDERS["launcher"] = (5, list(FOLDERS))
FOLDERS["examples"] = (6, list(FOLDERS))
FOLDERS["tests"] = (6, list(FOLDERS))
WITHOUT_LIBRARY = {"examples", "tests"}  # programs, not peal_library

# library: (its headers, folders whose sources may include them). Tests may include any.
LIBRARIES = {
    "fmt": (["fmt/*"], ["core/base"]),
    "spdlog": (["spdlog/*"], ["core/base"]),
    "xxHash": (["xxhash.h"], ["core/base"]),
    "CUDA": (["cuda*.h", "cuda/*", "cooperative_groups*", "nvtx3/*"],
             ["core/device", "core/kernels"]),
    "Protobuf": (["google/protobuf/*"], ["core/config", "core/state"]),
    "oneDNN": (["oneapi/dnnl/*", "dnnl*.h", "dnnl*.hpp"], ["core/kernels"]),
    "OpenMP": (["omp.h"], ["core/kernels"]),
    "cuDNN": (["cudnn*"], ["core/kernels"]),
    "CUPTI": (["cupti*"], []),
    "cuBLASLt": (["cublas*"], ["core/kernels"]),
    "CUB": (["cub/*"], ["core/kernels"]),
    "zlib": (["zlib.h"], ["core/data"]),
    "libpng": (["png.h"], ["core/data"]),
    "libjpeg-turbo": (["jpeglib.h", "jerror.h"], ["core/data"]),
    "libcurl": (["curl/*"], ["core/data"]),
    "PCRE2": (["pcre2.h"], ["core/data"]),
    "nlohmann-json": (["nlohmann/*"], ["core/data", "core/state", "launcher"]),
    "MPI": (["mpi.h", "mpi-ext.h"], ["comm", "examples"]),
    "NCCL": (["nccl*.h"], ["comm"]),
    "PMIx": (["pmix.h"], ["comm"]),
    "hwloc": (["hwloc.h"], ["launcher"]),
    "CLI11": (["CLI/*"], ["launcher"]),
    "LibTorch": (["torch/*"], ["examples"]),
    "GoogleTest": (["gtest/*", "gmock/*"], []),
    "Google Benchmark": (["benchmark/*"], []),
    "Boost.Context": (["boost/context/*"], []),
}
# The private header of a wrapper, seen only by the sources beside it: its library's types are what
# it exists to wrap.
WRAPPERS = {"core/kernels/cpu/onednn.h": "oneDNN", "core/kernels/cuda/stored.cuh": "CUDA"}
# The public header that hands a library's types over, for users who bring them.
SHOWS = {"comm/mpi_comm.h": "MPI"}
# How examples, which are built outside the tree, name the installed headers.
INSTALLED = "peal/"
# C and POSIX headers; a name without a dot is C++'s own.
SYSTEM = [
    "sys/*", "linux/*", "netinet/*", "arpa/*", "net/*", "*intrin.h", "arm_neon.h", "cpuid.h",
    "cxxabi.h", "dirent.h", "dlfcn.h", "elf.h", "errno.h", "execinfo.h", "fcntl.h", "fenv.h", "float.h",
    "ftw.h", "getopt.h", "glob.h", "ifaddrs.h", "inttypes.h", "limits.h", "link.h", "malloc.h", "math.h",
    "netdb.h", "poll.h", "pthread.h", "pwd.h", "sched.h", "semaphore.h", "setjmp.h", "signal.h",
    "spawn.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h",
    "strings.h", "syslog.h", "termios.h", "time.h", "unistd.h", "wordexp.h",
    "sanitizer/*", "valgrind/*",
]

TOP_LEVEL = {"CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", "core", "comm",
             "launcher", "models", "examples", "tests", "cluster"}
MAX_LINES = 600
SOURCES = {".cpp", ".cu", ".cc", ".c"}
HEADERS = {".h", ".hpp", ".cuh"}
LINE_LIMITED = SOURCES | HEADERS | {".py", ".sh", ".proto"}

INCLUDE = re.compile(r"^\s*#\s*(?:include|import)\b\s*(.*)$")
NAMESPACE = re.compile(r"^namespace ([\w:]+) \{")
TYPE = re.compile(r"^(?:struct|class|enum class)\s+(?:alignas\([^)]*\)\s*)?([\w:]+\w)[^;]*\{")
NAME = re.compile(r'[<"]([^>"]+)[>"]')


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def project_files(root):
    """Paths, relative to root, of the files that are or would be in the repository."""
    git = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached",
         "--others", "--exclude-standard"], capture_output=True, check=False) \
        if (root / ".git").exists() and shutil.which("git") else None
    if git is not None and git.returncode == 0:
        names = sorted(set(git.stdout.decode().split("\0")) - {""})
        return [Path(name) for name in names if (root / name).is_file()]
    ignored = []
    if (root / ".gitignore").exists():
        ignored = [line.strip("/") for line in (root / ".gitignore").read_text().split()]
    files = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not any(matches(part, ignored + [".git"]) for part in relative.parts):
            files.append(relative)
    return files


def folder_of(path):
    """The row of FOLDERS that a path belongs to, or None."""
    parts = Path(path).parts
    for depth in (2, 1):
        folder = "/".join(parts[:depth])
        if len(parts) > depth and folder in FOLDERS:
            return folder
    return None


def short(folder):
    return folder.removeprefix("core/")


def with_level(folder):
    return f"{short(folder)} ({FOLDERS[folder][0]})"


def without_block_comments(text):
    """Comments become blank, line by line, so that line numbers stay."""
    return re.sub(r"/\*.*?\*/", lambda found: re.sub(r"[^\n]", " ", found.group()), text,
                  flags=re.DOTALL)


def check_include(path, folder, name):
    """What is wrong with one include of one file, or None."""
    if folder == "examples":
        name = name.removeprefix(INSTALLED)
    top = name.split("/")[0]
    if top in ("core", "comm", "launcher", "models", "tests", "examples"):
        target = folder_of(name)
        if target is None:
            return "not in a folder of the table of levels"
        if target != folder and target not in FOLDERS[folder][1]:
            return f"{with_level(folder)} may not see {with_level(target)}"
        if name in WRAPPERS and Path(name).parent != path.parent:
            return f"the wrapper of {WRAPPERS[name]} is for {Path(name).parent} alone"
        return None
    for library, (headers, users) in LIBRARIES.items():
        if not matches(name, headers):
            continue
        if folder == "tests":
            return None
        if folder not in users:
            names = [short(user) for user in users] or ["tests"]
            owners = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            return f"{with_level(folder)} may not use {library}, only {owners} may"
        if path.suffix in HEADERS and library not in (WRAPPERS.get(path.as_posix()),
                                                      SHOWS.get(path.as_posix())):
            return f"a header may not show {library}, only a source may"
        return None
    if "." not in name or matches(name, SYSTEM):
        return None
    return ("neither from the repository root nor a system header nor of a library in the table "
            "of levels")


def check_sources(root, files):
    for path in files:
        if path.suffix not in SOURCES | HEADERS:
            continue
        folder = folder_of(path)
        if folder is None:
            yield f"{path}: not in a folder of the table of levels"
            continue
        text = without_block_comments((root / path).read_text(errors="replace"))
        for number, line in enumerate(text.split("\n"), start=1):
            directive = INCLUDE.match(line)
            if not directive:
                continue
            name = NAME.match(directive.group(1))
            problem = check_include(path, folder, name.group(1)) if name else \
                "a name made by a macro cannot be checked"
            if problem:
                shown = name.group(1) if name else directive.group(1)
                yield f"{path}:{number} includes {shown}: {problem}"


def check_types(root, files):
    """Two types of one name in one namespace: the linker takes a function of either for both."""
    seen = {}
    for path in files:
        if path.suffix not in HEADERS or folder_of(path) in (None, "tests", "examples"):
            continue
        namespace = ""
        text = without_block_comments((root / path).read_text(errors="replace"))
        for number, line in enumerate(text.split("\n"), start=1):
            opened, defined = NAMESPACE.match(line), TYPE.match(line)
            if opened:
                namespace = opened.group(1)
            elif defined:
                name = f"{namespace}::{defined.group(1)}"
                if name in seen:
                    yield f"{path}:{number} defines {name}, and so does {seen[name]}"
                seen.setdefault(name, f"{path}:{number}")


def check_lengths(root, files):
    for path in files:
        if path.suffix in LINE_LIMITED:
            lines = (root / path).read_bytes().count(b"\n")
            if lines > MAX_LINES:
                yield f"{path}: {lines} lines, at most {MAX_LINES}; split it by family"


def check_top_level(files):
    found = {path.parts[0] for path in files}
    for name in sorted(found - TOP_LEVEL):
        if not name.startswith("."):
            yield f"{name}: not one of the top level's {', '.join(sorted(TOP_LEVEL))}"
    for name in sorted((TOP_LEVEL | {".ci"}) - found):
        yield f"{name}: missing from the top level"


def cmake_links(text):
    """{folder: folders it links itself} and the lines of the peal_library calls."""
    text = re.sub(r"#[^\n]*", "", text)
    folder_by_target, links, lines = {}, {}, {}
    for call in re.finditer(r"\bpeal_library\s*\(\s*(\w+)\s+([\w/]+)([^)]*)\)", text):
        name, folder, rest = call.groups()
        folder_by_target[f"peal_{name}"] = folder
        links[folder] = re.findall(r"\bpeal_\w+", rest)
        lines[folder] = text.count("\n", 0, call.start()) + 1
    for call in re.finditer(r"\btarget_link_libraries\s*\(\s*(peal_\w+)([^)]*)\)", text):
        folder = folder_by_target.get(call.group(1))
        if folder:
            links[folder] += re.findall(r"\bpeal_\w+", call.group(2))
    return {folder: [folder_by_target[target] for target in targets if target in folder_by_target]
            for folder, targets in links.items()}, lines


def reachable(links, folder):
    seen, left = set(), [folder]
    while left:
        for linked in links.get(left.pop(), []):
            if linked not in seen:
                seen.add(linked)
                left.append(linked)
    return seen


def check_cmake(root):
    links, lines = cmake_links((root / "CMakeLists.txt").read_text())
    for folder in links:
        where = f"CMakeLists.txt:{lines[folder]}"
        if folder not in FOLDERS:
            yield f"{where} peal_library of {folder}: not in the table of levels"
            continue
        for linked in links[folder]:
            if linked not in FOLDERS[folder][1]:
                yield (f"{where} links {short(folder)} to {short(linked)}: {with_level(folder)} "
                       f"may not see {with_level(linked)}")
        for needed in FOLDERS[folder][1]:
            if needed not in reachable(links, folder):
                yield (f"{where} does not link {short(folder)} to {short(needed)}, which it may "
                       f"include")
    for folder in FOLDERS:
        if folder not in links and folder not in WITHOUT_LIBRARY:
            yield f"CMakeLists.txt: no peal_library for {folder}"


def violations(root):
    files = project_files(root)
    yield from check_sources(root, files)
    yield from check_types(root, files)
    yield from check_lengths(root, files)
    yield from check_top_level(files)
    yield from check_cmake(root)


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    found = list(violations(root.resolve()))
    for line in found:
        print(line)
    print(f"{len(found)} violations of the levels" if found else "the levels hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
