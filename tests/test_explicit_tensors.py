"""Every tensor that the library makes is made with its dtype and device, whatever torch's defaults.

Other code may have set `torch.set_default_dtype` or `torch.set_default_device`; a buffer of another
type is garbage to compiled code, and state on another device does not fit the network's.
"""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skippose"
MEMORY = "backends/native/memory.py"
"""Where memory that compiled code sees is made, and its address is taken and checked."""
TELL_APART = {"plan/capture.py", "plan/recorder.py"}
"""Where addresses tell tensors apart, and go nowhere."""

# fmt: off
FACTORIES = {
    "arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty",
    "empty_permuted", "empty_quantized", "empty_strided", "eye", "full", "hamming_window",
    "hann_window", "kaiser_window", "linspace", "logspace", "ones", "rand", "randint", "randn",
    "randperm", "range", "scalar_tensor", "sparse_bsc_tensor", "sparse_bsr_tensor",
    "sparse_compressed_tensor", "sparse_coo_tensor", "sparse_csc_tensor", "sparse_csr_tensor",
    "tensor", "tril_indices", "triu_indices", "zeros",
}
# fmt: on
"""Functions of torch that take the default dtype or device where none is given."""
LEGACY = {"Tensor", "BoolTensor", "DoubleTensor", "FloatTensor", "HalfTensor", "LongTensor"}
"""Classes that always take the defaults when they are called."""
ADDRESSES = {"data_ptr", "from_address", "frombuffer", "from_blob"}


def sources() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert found, f"no modules in {PACKAGE}"
    return found


def with_weights(name: str) -> bool:
    """Whether a class of torch.nn makes parameters or buffers."""
    made = getattr(nn, name, None)
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        return False
    return {"dtype", "device"} <= set(inspect.signature(made).parameters)


def implicit(source: str) -> list[str]:
    """Calls of factories that leave dtype or device to torch's defaults, as 'line: what'."""
    tree, wrong, torches, nns = ast.parse(source), [], set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            torches |= {a.asname or a.name for a in node.names if a.name == "torch"}
            nns |= {a.asname for a in node.names if a.name == "torch.nn" and a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            nns |= {a.asname or a.name for a in node.names if a.name == "nn"}
            taken = {a.name for a in node.names} & FACTORIES
            wrong += [f"{node.lineno}: {name} without its module" for name in taken]
        elif isinstance(node, ast.ImportFrom) and node.module == "torch.nn":
            taken = {a.name for a in node.names if with_weights(a.name)}
            wrong += [f"{node.lineno}: {name} without its module" for name in taken]
    called = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        call = called.get(id(node))
        if owner in torches and node.attr in LEGACY:
            makes = call is not None
        elif owner in torches:
            makes = node.attr in FACTORIES  # also one that is handed on to be called elsewhere
        else:
            is_nn = owner in nns or owner in {f"{t}.nn" for t in torches}
            makes = is_nn and call is not None and with_weights(node.attr)
        if not makes:
            continue
        given = set() if call is None else {k.arg for k in call.keywords}
        if node.attr in LEGACY or not {"dtype", "device"} <= given:
            wrong.append(f"{node.lineno}: {owner}.{node.attr}")
    return wrong


def addresses(source: str) -> list[str]:
    """Where code gets at the memory of tensors, or makes tensors of memory, as 'line: what'."""
    return [
        f"{node.lineno}: {node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr in ADDRESSES
        and ast.unparse(node.value) != "np"  # which copies out of what Python keeps
    ]


def test_factories_are_called_with_dtype_and_device():
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sources()
        if (found := implicit(path.read_text()))
    }
    assert not wrong, f"give these a dtype and a device: {wrong}"


def test_one_module_takes_addresses():
    found = {
        path.relative_to(PACKAGE).as_posix(): addresses(path.read_text()) for path in sources()
    }
    found = {name: lines for name, lines in found.items() if lines}
    assert MEMORY in found
    wrong = {name: lines for name, lines in found.items() if name not in {MEMORY, *TELL_APART}}
    assert not wrong, f"{MEMORY} does that, and checks what it is given: {wrong}"


def test_no_factory_of_this_torch_is_missing():
    """What torch itself gives the default device to."""
    utils = pytest.importorskip("torch.utils._device")
    known = getattr(utils, "_device_constructors", lambda: ())()
    names = {f.__name__ for f in known if getattr(torch, f.__name__, None) is f}
    assert names <= FACTORIES, f"unknown factories: {names - FACTORIES}"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("import torch\ntorch.zeros(3)", True),
        ("import torch\ntorch.zeros(3, dtype=torch.long)", True),
        ("import torch\ntorch.arange(3, device='cpu')", True),
        ("import torch as t\nt.full((), 1.0)", True),
        ("import torch\ntorch.zeros(3, **kind)", True),
        ("import torch\nmake = torch.ones", True),
        ("import torch\ntorch.Tensor(3)", True),
        ("from torch import empty", True),
        ("from torch import nn\nnn.Conv2d(1, 1, 1)", True),
        ("import torch\ntorch.nn.Linear(1, 1, dtype=torch.float32)", True),
        ("from torch.nn import Linear", True),
        ("import torch\ntorch.zeros(3, dtype=torch.long, device='cpu')", False),
        (
            "import torch\ndef f(x: torch.Tensor): return x.new_zeros(3) + torch.zeros_like(x)",
            False,
        ),
        ("import numpy as np\nnp.zeros(3)", False),
        ("from torch import nn\nnn.ReLU(); nn.Conv2d(1, 1, 1, dtype=d, device=e)", False),
        ("from torch import nn\nisinstance(x, nn.Conv2d)", False),
    ],
)
def test_the_check_sees(line, wrong):
    assert bool(implicit(line)) == wrong, implicit(line)
