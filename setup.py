"""Builds the native backend; everything else is declared in pyproject.toml.

The library is called through a plain C interface, so one build serves every torch. It is optional:
without a C++ compiler the installation succeeds and streams use backend "torch".
"""

from __future__ import annotations

import platform
import runpy
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.errors import CompileError
except ImportError:  # what older setuptools raise
    from distutils.errors import CompileError

NATIVE = "skippose/backends/native"
INTERFACE = runpy.run_path(str(Path(__file__).parent / NATIVE / "interface.py"))["number"]()
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-pthread"]
# By which a library that was built from other sources is known.
FLAGS += [f"-DSKP_INTERFACE={INTERFACE:#x}ULL"]
# GCC 12 warns about its own AVX-512 header.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-Wno-maybe-uninitialized"]
AVX512 += ["-mavx2", "-mfma", "-Wno-uninitialized"]
# Only these files hold instructions that not every CPU has; which run is decided at run time.
OWN_FLAGS = {
    "kernels_avx2.cpp": ["-mavx2", "-mfma"],
    "kernels_avx512.cpp": AVX512,
    "kernels_avx512bf16.cpp": [*AVX512, "-mavx512bf16"],
    "kernels_amx.cpp": [*AVX512, "-mamx-tile", "-mamx-bf16"],
}


class BuildNative(build_ext):
    """Compiles each file with flags of its own into one library without a Python interface."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"  # no Python version in its name

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        if sys.platform == "win32":
            raise CompileError("the native backend is built on Linux and macOS")
        objects = []
        for source in ext.sources:
            own = OWN_FLAGS.get(Path(source).name, [])
            if platform.machine().lower() not in ("x86_64", "amd64"):
                own = []
            try:
                objects += self._compile(source, own)
            except CompileError:  # a compiler that does not know these instructions
                if not own:
                    raise
                objects += self._compile(source, [])
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects, str(target), extra_postargs=["-pthread"], target_lang="c++"
        )

    def _compile(self, source: str, own: list[str]) -> list[str]:
        return self.compiler.compile(
            [source], output_dir=self.build_temp, extra_postargs=[*FLAGS, *own]
        )


if __name__ == "__main__":  # the flags are read by tests/backends/native/sanitize.py too
    setup(
        cmdclass={"build_ext": BuildNative},
        ext_modules=[
            Extension(
                "skippose.backends.native.libskippose",
                sorted(glob(f"{NATIVE}/src/*.cpp")),
                depends=[*glob(f"{NATIVE}/src/*.h"), *glob(f"{NATIVE}/src/*.def")],
                language="c++",
                optional=True,
            )
        ],
    )
