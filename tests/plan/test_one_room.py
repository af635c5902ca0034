"""What an operator or a gate is stands in its own file: nothing else tests which one it has."""

import ast
from pathlib import Path

import pytest

from skippose.gates import GATES
from skippose.ops import gate_spec
from skippose.plan.operators.activations import ACTIVATIONS
from skippose.plan.registry import OPERATORS, TRACES

ROOT = Path(__file__).parents[2] / "skippose"
PLACES = ("backends", "plan", "visualization")
OWN = ROOT / "plan" / "operators"
TYPES = {"Op", "Pixelwise"} | {
    name for name, kind in OPERATORS.items() if kind.__module__.startswith("skippose.")
}
NAMES = TYPES | ACTIVATIONS.keys() | TRACES.keys()
"""Strings by which an operator or activation may be known."""
OPERATIONS = {"op", "operation", "producer", "conv", "act", "activation"}
"""What variables and attributes that hold one are called."""
SCORES = {kind.__name__: kind for kind in gate_spec.Score.__subclasses__()}
GATE_TYPES = {"Gate", "NormGate", "Sampled", "Score"} | GATES.keys() | SCORES.keys()
GATE_NAMES = GATE_TYPES | {kind.kind for kind in SCORES.values()} - {"linear"}  # a field, too
"""Likewise of gates and their scores, which backends ask and never tell apart."""
KNOWN_TYPES, KNOWN_NAMES = TYPES | GATE_TYPES, NAMES | GATE_NAMES


def sources() -> list[Path]:
    files = [path for place in PLACES for path in sorted((ROOT / place).rglob("*.py"))]
    assert len(files) > 20, f"no modules in {ROOT}"
    return [path for path in files if OWN not in path.parents]


def types(node: ast.AST) -> set[str]:
    """The operators and gates that an expression names: itself, or in a tuple, list or union."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return (TYPES | GATE_TYPES) & (
        found | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    )


def known_by(node: ast.AST) -> set[str]:
    """By which type or string an expression knows one: what is compared, keys, patterns."""
    items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    strings = {
        n.value for n in items if isinstance(n, ast.Constant) and n.value in NAMES | GATE_NAMES
    }
    plain = [n for n in items if isinstance(n, ast.Name | ast.Attribute)]
    return strings.union(*(types(n) for n in plain))


def told_apart(source: str) -> list[str]:
    """Where code tells operators apart, as 'line: what'."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        found: set[str] = set()
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
                found = types(kinds)
            case ast.Call(func=ast.Name(id="type"), args=[of]):
                found = (OPERATIONS | {"gate", "score"}) & {ast.unparse(of).rpartition(".")[2]}
            case ast.Compare(left=left, comparators=others):
                found = known_by(left).union(*(known_by(other) for other in others))
            case ast.Dict(keys=keys):
                found = set().union(*(known_by(key) for key in keys if key is not None))
            case ast.MatchClass(cls=kind) | ast.MatchValue(value=kind):
                found = known_by(kind)
        wrong += [f"{node.lineno}: {ast.unparse(node)[:80]} ({name})" for name in sorted(found)]
    return wrong


def test_operators_and_gates_are_asked_and_not_told_apart():
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sources()
        if (found := told_apart(path.read_text()))
    }
    # Pictures of what learned gates see are of learned gates.
    wrong.pop("visualization/gate_trace.py", None)
    assert not wrong, (
        f"ask the operator (skippose/plan/op.py) or the gate's spec (ops/gate_spec.py): {wrong}"
    )


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("isinstance(op, Conv)", True),
        ("isinstance(op, (int, plan.FuseSum))", True),
        ("isinstance(op, Pool | Mul)", True),
        ("issubclass(kind, Pixelwise)", True),
        ("type(op) is Mul", True),
        ("kind == Mul", True),
        ("type(node.op) in KINDS", True),
        ("type(net).__name__", False),
        ("type(op).__name__", True),
        ("TABLE = {Conv: 1}", True),
        ("TABLE = {'sigmoid': 4}", True),
        ("act.kind.name == 'relu'", True),
        ("name in ('mul', 'add')", True),
        ("'batch_norm' in name", True),
        ("match op:\n    case Conv(): pass", True),
        ("match name:\n    case 'relu': pass", True),
        ("isinstance(layer.gate, NormGate)", True),
        ("isinstance(spec.score, InputNorm)", True),
        ("type(gate) in KNOWN", True),
        ("TABLE = {GumbelGate: 1}", True),
        ("spec.score.kind == 'input_norm'", True),
        ("spec.score.lower(self)", False),
        ("isinstance(x, Tensor)", False),
        ("type(self).__name__", False),
        ("def f(op: Conv) -> Pool: return Conv.of(op)", False),
        ("x = cast(Conv, op)", False),
        ("op.gated is not None", False),
        ("name == 'hold'", False),
    ],
)
def test_the_check_sees(line, wrong):
    assert bool(told_apart(line)) == wrong, told_apart(line)
