"""Builds the native backend with its driver and runs them: under sanitizers, or in an emulator.

``make sanitize`` and ``make emulate`` call it; it ends with an error unless every run is clean.

- ``address``: AddressSanitizer and UBSan, every array of the backend in an allocation of its own.
- ``thread``: ThreadSanitizer.
- ``tiles``: as ``address``, with AMX's tile instructions in plain C++, on a CPU with AVX-512.
- ``emulate``: the backend as it is installed, on processors without AVX-512, and without AVX.
"""

from __future__ import annotations

import argparse
import os
import platform
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SOURCES = ROOT / "skippose" / "backends" / "native" / "src"
SANITIZERS = {
    "address": "address,undefined",
    "thread": "thread",
    "tiles": "address,undefined",
}
CHECKED = ["-O2", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
# Processor models of the emulator, and the best set of instructions on each (numbers of SkpIsa).
EMULATED = {"Haswell": 1, "Nehalem": 0}
EMULATOR = "qemu-x86_64"
ARRAYS, TILES = "separate_arrays.cpp", "emulated_tiles.cpp"
TILES_NEED = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"}
"""What the backend uses beside tiles on a CPU that has them."""


def compile_driver(
    compiler: str, out: Path, extra: Sequence[str] = (), replacing: Sequence[str] = ()
) -> Path:
    """The backend's sources and the driver as one program; what is up to date is kept.

    Args:
        compiler: a C++ compiler.
        out: folder for objects and the program.
        extra: flags after those of the package's own build.
        replacing: files whose functions take the place of the backend's.
    """
    out.mkdir(parents=True, exist_ok=True)
    build = runpy.run_path(str(ROOT / "setup.py"), run_name="flags")
    flags, own_flags = list(build["FLAGS"]), build["OWN_FLAGS"]
    link = [*extra, "-pthread"]
    if replacing:  # calls within a file too must go through the symbol; the first one counts
        flags.remove("-fvisibility=hidden")
        link.append("-Wl,--allow-multiple-definition")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        own_flags = {}
    sources = [HERE / "driver.cpp", *(HERE / name for name in replacing)]
    sources += sorted(SOURCES.glob("*.cpp"))
    shared = (*SOURCES.glob("*.h"), *SOURCES.glob("*.def"), *HERE.glob("*.h"))
    headers = max(h.stat().st_mtime for h in shared)
    compile_flags = [*flags, *extra, f"-I{SOURCES}"]
    objects = []
    for source in sources:
        made = out / f"{source.stem}.o"
        objects.append(str(made))
        if made.exists() and made.stat().st_mtime > max(source.stat().st_mtime, headers):
            continue
        own = list(own_flags.get(source.name, []))
        if source.name == "kernels_amx.cpp" and TILES in replacing:
            own += ["-include", str((HERE / TILES).with_suffix(".h"))]
        run([compiler, *compile_flags, *own, "-c", str(source), "-o", str(made)])
    program = out / "driver"
    run([compiler, *objects, *link, "-o", str(program)])
    return program


def run(command: Sequence[str], **environment: str) -> None:
    """Runs it, or ends this program with what it said."""
    done = subprocess.run(command, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"failed with {done.returncode}: {' '.join(command)}")


def missing(compiler: str, sanitizer: str, out: Path) -> str | None:
    """Why this compiler cannot use a sanitizer, or None."""
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler!r}"
    out.mkdir(parents=True, exist_ok=True)
    program = out / "probe"
    command = [compiler, f"-fsanitize={SANITIZERS[sanitizer]}", "-x", "c++", "-", "-o", program]
    made = subprocess.run(command, input=b"int main() {}", capture_output=True)
    if made.returncode:
        reason = made.stderr.decode().strip().splitlines()[-1:]
        return f"{compiler} has no {sanitizer} sanitizer: {''.join(reason)}"
    ran = subprocess.run([program], capture_output=True)
    if ran.returncode:
        return f"the {sanitizer} sanitizer does not run here: {ran.stderr.decode().strip()[:200]}"
    return None


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=[*SANITIZERS, "emulate"])
    parser.add_argument("--compiler", default=os.environ.get("CXX", "c++"))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "sanitize")
    arguments = parser.parse_args()
    for what in arguments.what:
        out = arguments.out / what
        if what == "emulate":
            emulate(arguments.compiler, out)
            continue
        reason = missing(arguments.compiler, what, out)
        if reason is not None:
            sys.exit(f"{reason}; install one (Debian, Ubuntu: apt-get install g++)")
        if what == "tiles" and (lacking := TILES_NEED - cpu_flags()):
            print(f"no tiles emulated: this CPU lacks {', '.join(sorted(lacking))}")
            continue
        print(f"== {what}: -fsanitize={SANITIZERS[what]}", flush=True)
        program = compile_driver(
            arguments.compiler,
            out,
            [*CHECKED, f"-fsanitize={SANITIZERS[what]}"],
            [ARRAYS, *([TILES] if what == "tiles" else [])],
        )
        # What ThreadSanitizer looks for does not depend on the precision.
        brief = ["--brief"] if what == "thread" else []
        run([str(program), *brief], ASAN_OPTIONS="quarantine_size_mb=32:malloc_context_size=8")


def cpu_flags() -> set[str]:
    """What this CPU has, in Linux's words; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def emulate(compiler: str, out: Path) -> None:
    """The backend as it is installed, on processors without AVX-512 and without AVX."""
    if shutil.which(EMULATOR) is None:
        print(f"no {EMULATOR}, nothing emulated (Debian, Ubuntu: apt-get install qemu-user)")
        return
    program = compile_driver(compiler, out)
    for model, best in EMULATED.items():
        print(f"== {EMULATOR} -cpu {model}", flush=True)
        run([EMULATOR, "-cpu", model, str(program), "--brief", "--best", str(best)])


if __name__ == "__main__":
    main()
