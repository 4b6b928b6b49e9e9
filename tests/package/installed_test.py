#!/usr/bin/env python3
"""The comm layer as other programs get it: installs into a temporary prefix, builds the examples
against that outside the source tree, through CMake and through pkg-config, and runs them.

usage: installed_test.py [Installed|LibTorch]
       with PEAL_BUILD, PEAL_SOURCE and PEAL_TEST_DATA in the environment
"""

import array
import gzip
import os
import shlex
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

BUILD, SOURCE = Path(os.environ["PEAL_BUILD"]), Path(os.environ["PEAL_SOURCE"])
MPIRUN = ["mpirun", "--oversubscribe", "--mca", "btl_vader_single_copy_mechanism", "none"]
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
WARNINGS = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
CXX, C99 = ["c++", "-std=c++20", *WARNINGS], ["cc", "-std=c99", *WARNINGS]
# The user's own project, as a listfile that knows nothing of the example's.
STATIC_PROJECT = """cmake_minimum_required(VERSION 3.22)
project(user LANGUAGES CXX)
find_package(Peal 0.1 REQUIRED)
add_executable(train_static {source})
target_compile_definitions(train_static PRIVATE WITH_PEAL)
target_link_libraries(train_static PRIVATE Peal::comm_static)
"""


def run(*command, **options):
    """Runs a command and returns what it prints; its failure fails the test with all of it."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
                          env=ENVIRONMENT, **options)
    if done.returncode != 0:
        raise AssertionError(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n"
                             f"{done.stdout}")
    return done.stdout


def floats_of(path):
    values = array.array("f")
    values.frombytes(path.read_bytes())
    return values


class Package(unittest.TestCase):
    """Installs once, builds what a test asks for, trains and compares."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="peal_installed_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        first = cls.folder / "first"
        run("cmake", "--install", BUILD, "--prefix", first)
        cls.prefix = cls.folder / "moved"  # nothing in it may name the place it was installed to
        first.rename(cls.prefix)

    def built(self, example):
        """The build folder of an example, which is copied away from the source tree first."""
        source, build = self.folder / example, self.folder / f"build_{example}"
        if not build.exists():
            shutil.copytree(SOURCE / "examples" / example, source)
            run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
                "-DCMAKE_BUILD_TYPE=Release")
            run("cmake", "--build", build)
        return build

    def weights(self, program, ranks, *arguments):
        """The weights after training on so many ranks, which must be the same on all of them."""
        out = self.folder / f"{program.parent.name}_{program.name}_{ranks}"
        run(*MPIRUN, "-np", ranks, program, *arguments, out)
        of_ranks = [Path(f"{out}.{rank}").read_bytes() for rank in range(ranks)]
        for rank in range(1, ranks):
            self.assertEqual(of_ranks[0], of_ranks[rank], f"{program}: rank {rank} differs")
        self.assertGreater(len(of_ranks[0]), 1000)
        return floats_of(Path(f"{out}.0"))

    def assert_close(self, a, b):
        """Equal but for the rounding of float sums over some hundred steps."""
        self.assertEqual(len(a), len(b))
        size = max(abs(value) for value in a)
        worst = max(abs(x - y) for x, y in zip(a, b))
        self.assertLess(worst, 3e-6 * size)


class Installed(Package):
    def headers(self):
        return sorted((self.prefix / "include").rglob("*.h"))

    def pkg_config(self, *arguments):
        folder = next(self.prefix.rglob("peal-comm.pc")).parent
        printed = run("env", f"PKG_CONFIG_PATH={folder}", "pkg-config", *arguments, "peal-comm")
        return shlex.split(printed)

    def test_cpp_trains_as_one_rank_does(self):
        build = self.built("embed_cpp")
        one = self.weights(build / "train_mpi", 1)
        self.assertEqual(one, self.weights(build / "train_peal", 1))
        for ranks in (2, 3):
            self.assert_close(one, self.weights(build / "train_peal", ranks))

    def test_c99_trains_to_the_same_bits(self):
        build = self.built("embed_c")
        one = self.weights(build / "train_mpi", 1)
        self.assertTrue(any(one))
        for ranks in (1, 2, 3):
            self.assertEqual(one, self.weights(build / "train_peal", ranks), f"{ranks} ranks")

    def test_the_archive_needs_mpi_alone(self):
        user, build = self.folder / "user", self.folder / "build_user"
        user.mkdir()
        source = SOURCE / "examples/embed_cpp/train.cpp"
        (user / "CMakeLists.txt").write_text(STATIC_PROJECT.format(source=source))
        run("cmake", "-S", user, "-B", build, f"-DPeal_DIR={self.prefix}/lib/cmake/Peal")
        run("cmake", "--build", build)
        self.assertNotIn("peal", run("ldd", build / "train_static"))
        self.assert_close(self.weights(build / "train_static", 1),
                          self.weights(build / "train_static", 2))

    def test_pkg_config(self):
        folder = self.folder / "pkg_config"
        folder.mkdir()
        library = self.pkg_config("--variable=libdir")[0]
        for compiler, source in ((CXX, "embed_cpp/train.cpp"), (C99, "embed_c/train.c")):
            program = folder / Path(source).parent.name
            run(*compiler, "-O2", "-DWITH_PEAL", SOURCE / "examples" / source, "-o", program,
                *self.system_includes(), *self.pkg_config("--libs"), "-lm",
                f"-Wl,-rpath,{library}")
            self.weights(program, 2)

    def system_includes(self):
        """The flags of --cflags, with MPI's headers as a system's: they are not pedantic."""
        own = f"-I{self.prefix.resolve()}/include"
        return [flag if Path(flag[2:]).resolve() == Path(own[2:]) else f"-isystem{flag[2:]}"
                for flag in self.pkg_config("--cflags")]

    def test_every_header_stands_alone(self):
        self.assertIn(self.prefix / "include/peal/comm/communicator.h", self.headers())
        for header in self.headers():
            run(*CXX, "-fsyntax-only", *self.system_includes(), "-include", header, "-x", "c++",
                "/dev/null")
        for name in ("peal.h", "mpi_comm.h"):
            run(*C99, "-fsyntax-only", *self.system_includes(), "-include",
                self.prefix / "include/peal/comm" / name, "-x", "c", "/dev/null")

    def test_the_lines_of_the_readme_compile(self):
        section = (SOURCE / "README.md").read_text().split("## Use the comm layer alone")[1]
        lines = section.split("```cpp\n")[1].split("```")[0].splitlines()
        program = self.folder / "readme.cpp"
        program.write_text("\n".join(
            [line for line in lines if line.startswith("#include")]
            + ["void use(float* weights, std::int64_t count, std::size_t begin, std::size_t end) {"]
            + [line for line in lines if not line.startswith("#include")] + ["}", ""]))
        run(*CXX, "-fsyntax-only", *self.system_includes(), program)

    def test_nothing_of_the_trainer(self):
        allowed = {"comm", "core/base", "core/device"}
        root = self.prefix / "include/peal"
        self.assertEqual({header.parent.relative_to(root).as_posix() for header in self.headers()},
                         allowed)
        needed = run("readelf", "-d", next(self.prefix.rglob("libpeal_comm.so")))
        for library in ("protobuf", "dnnl", "spdlog", "fmt", "gomp", "xxhash"):
            self.assertNotIn(library, needed)
        for file in self.prefix.rglob("*.cmake"):
            for library in ("spdlog", "rotobuf", "dnnl", "OpenMP"):
                self.assertNotIn(library, file.read_text(), file)

    def test_the_program_is_there(self):
        self.assertEqual(run(self.prefix / "bin/peal", "--version"),
                         run(BUILD / "peal", "--version"))


class LibTorch(Package):
    ADDED_LINES = 25

    def test_mnist_trains_as_one_rank_does(self):
        data = self.folder / "mnist"
        data.mkdir()
        for packed in Path(os.environ["PEAL_TEST_DATA"], "mnist").glob("*.gz"):
            (data / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        build = self.built("embed_libtorch")
        out = self.folder / "alone"
        self.assertIn("test accuracy", run(build / "mnist_alone", data, out))
        alone = floats_of(Path(f"{out}.0"))
        self.assertEqual(alone, self.weights(build / "mnist_peal", 1, data))
        for ranks in (2, 3):
            self.assert_close(alone, self.weights(build / "mnist_peal", ranks, data))
        # Another seed on rank 1: it starts from rank 0's parameters all the same.
        program, out = build / "mnist_peal", self.folder / "seeds"
        run(*MPIRUN, "-np", 1, program, data, out, 1, ":", "-np", 1, program, data, out, 2)
        self.assertEqual(Path(f"{out}.0").read_bytes(), Path(f"{out}.1").read_bytes())
        self.assert_close(alone, floats_of(Path(f"{out}.1")))

    def test_few_lines_are_added(self):
        added, inside = 0, False
        for line in (SOURCE / "examples/embed_libtorch/mnist.cpp").read_text().splitlines():
            inside = line == "#ifdef WITH_PEAL" or (inside and line != "#endif")
            added += inside and line.strip() != "" and line != "#ifdef WITH_PEAL"
        self.assertGreater(added, 0)
        self.assertLess(added, self.ADDED_LINES)


if __name__ == "__main__":
    unittest.main(verbosity=2)
