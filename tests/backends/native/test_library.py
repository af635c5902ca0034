"""The compiled library: one definition of its interface; of another one it is not called."""

import ctypes
import re
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import skippose
from skippose.backends.native import interface, library
from skippose.backends.native.interface import INTERFACE, Interface
from skippose.backends.native.library import ElementKind, SkpElement
from skippose.backends.native.lowered import Lowered
from skippose.plan.operators.activations import ACTIVATIONS

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
needs_library = pytest.mark.skipif(library.load()[0] is None, reason=f"{library.load()[1]}")
CALLED = "".join(
    f'extern "C" int {name}() {{ abort(); }}\n' for name in (*INTERFACE.functions, "skp_version")
)


@pytest.fixture
def load(monkeypatch):
    """Loads a library as if for the first time."""
    library.load.cache_clear()

    def load_from(path=None):
        if path is not None:
            monkeypatch.setattr(library, "PATH", path)
        library.load.cache_clear()
        return library.load()

    yield load_from
    library.load.cache_clear()


def build(folder, text: str):
    """A library of some lines of C++ that ends the process when it is called."""
    source, path = folder / "stale.cpp", folder / "stale.so"
    source.write_text(f"#include <stdint.h>\n#include <stdlib.h>\n{text}\n{CALLED}")
    subprocess.run([COMPILER, "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return path


def exported(number: int, sizes: list[int]) -> str:
    """What a library says of itself."""
    return f"""
        extern "C" const uint64_t skp_interface;
        const uint64_t skp_interface = {number}ULL;
        extern "C" const int32_t skp_struct_bytes[];
        const int32_t skp_struct_bytes[] = {{{", ".join(map(str, sizes))}}};
    """


SIZES = [ctypes.sizeof(struct) for struct in INTERFACE.structs.values()]


@needs_compiler
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (exported(interface.number() + 1, SIZES), "built from other sources"),
        ("", "built from other sources"),  # from before libraries had a number
        (exported(interface.number(), [8, *SIZES[1:]]), "lays out SkpConv otherwise"),
    ],
    ids=["another number", "no number", "other sizes"],
)
def test_a_library_of_another_interface_is_named_and_not_called(text, reason, tmp_path, load):
    found, said = load(build(tmp_path, text))
    assert found is None
    assert reason in said and "python setup.py build_ext --inplace" in said


@needs_compiler
def test_a_stream_goes_on_without_a_stale_library(tmp_path, load, monkeypatch):
    load(build(tmp_path, exported(7, SIZES)))
    monkeypatch.setattr("skippose.stream._said", set())
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 4, 3)), skippose.InputNormGate(0.1)).eval()
    stream = skippose.Stream(net)
    with pytest.warns(UserWarning, match="'torch'; not 'native': .*built from other sources"):
        stream(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="'native' is not available: .*build it again with"):
        skippose.Stream(net, backend="native")


@needs_library
def test_sources_that_changed_make_the_library_stale(tmp_path, load, monkeypatch):
    changed = tmp_path / "interface.def"
    changed.write_text(interface.DEFINITION.read_text().replace("SKP_INT(kh)", "SKP_FLOAT(kh)"))
    monkeypatch.setattr(interface, "FILES", (changed, *interface.FILES[1:]))
    assert "built from other sources" in load()[1]
    monkeypatch.undo()
    assert load()[1] is None


@needs_library
def test_the_library_has_every_function(load):
    found, _ = load()
    assert {"skp_new", "skp_run", "skp_free"} <= INTERFACE.functions.keys()
    for name in INTERFACE.functions:
        assert getattr(found, name).argtypes == INTERFACE.functions[name][1]


def test_the_definition_is_read():
    text = """
    SKP_ENUM(Most)   // SKP_ENTRY(SKP_NO, no, 9) in a comment
    SKP_ENTRY(SKP_MOST_X, x, 3)
    SKP_END_ENUM(Most)
    SKP_STRUCT(Some)
    SKP_INT(in)
    SKP_INT_ARRAY(many, SKP_MOST_X)
    SKP_FLOATS(weight, weights)   // (O)
    SKP_END_STRUCT(Some)
    SKP_FUNCTION(const int64_t *, run, void *plan, const Some *some,
                 float *const *outputs)
    SKP_FUNCTION(void, end, void)
    """
    read = Interface(text)
    assert list(read.enums) == ["Most"] and dict(read.enums["Most"].__members__) == {"x": 3}
    some = read.structs["Some"]
    assert [name for name, _ in some._fields_] == ["in", "many", "weight"]
    assert ctypes.sizeof(some) == 4 + 12 + ctypes.sizeof(ctypes.c_void_p)
    assert read.lengths == {"Some": {"weight": "weights"}}
    result, arguments = read.functions["run"]
    assert result is ctypes.POINTER(ctypes.c_int64) and len(arguments) == 3
    assert arguments[0] is ctypes.c_void_p and arguments[1] is ctypes.POINTER(some)
    assert read.functions["end"] == (None, [])
    with pytest.raises(ValueError, match="an entry SKP_DOUBLE, which is not known"):
        Interface("SKP_DOUBLE(x)")


def test_setup_computes_the_same_number():
    """And by Python's own modules alone: nothing is installed yet."""
    code = f"import runpy; print(runpy.run_path({interface.__file__!r})['number']())"
    said = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert said.stdout.strip() == str(interface.number()), said.stderr


def test_every_activation_and_kind_has_its_code_in_cpp():
    kernels = (interface.SOURCES / "kernels_impl.h").read_text()
    entries = re.findall(r"SKP_ENTRY\((SKP_\w+), (\w+), \d+\)", interface.DEFINITION.read_text())
    c_names = {name: c_name for c_name, name in entries}
    own = {n for n, k in ACTIVATIONS.items() if k.in_place.__module__.startswith("skippose.")}
    assert own == {name for name in INTERFACE.enums["SkpAct"].__members__ if name != "none"}
    assert not [name for name in own if f"case {c_names[name]}:" not in kernels]
    assert all((interface.SOURCES / f"element_{k.name}.cpp").is_file() for k in ElementKind)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"scale": torch.ones(4)}, r"takes 3 contiguous .*float32.* got a tensor \(4,\)"),
        ({"first_y": torch.zeros(2, 2)}, r"takes 5 contiguous .*int32.* got a tensor \(2, 2\)"),
    ],
)
def test_an_array_is_as_long_as_the_library_reads(fields, error):
    made = Lowered(SkpElement(), {"channels": 3, "rows": 5, "columns": 6})
    made.write(scale=torch.arange(3), first_y=torch.arange(5), src=(4, 2), kh=7, shift=None)
    assert made.struct.scale[:3] == [0.0, 1.0, 2.0]
    assert made.struct.first_y[:5] == [0, 1, 2, 3, 4]
    assert list(made.struct.src) == [4, 2, 0, 0, 0, 0, 0, 0] and made.struct.kh == 7
    assert not made.struct.shift
    with pytest.raises(ValueError, match=error):
        made.write(**fields)
