"""What the oldest supported versions cannot do, and how much of a product of parameters runs."""

from collections import defaultdict
from collections.abc import Generator, Sequence
from itertools import combinations_with_replacement

import pytest
import torch

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
# Part of the error -> why the test is skipped, for torch before 2.5.
OLD_TORCH = {
    "not implemented for 'Half'": "this torch has no half-precision convolution for the CPU",
    "UserDefinedObjectVariable(ContextVar)": "this torch.export cannot trace a context variable",
    "Dynamo is not supported on Python": "this torch.compile is for older Pythons",
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skips a test that ends with one of these errors."""
    try:
        return (yield)
    except Exception as error:
        if TORCH < (2, 5):
            for part, reason in OLD_TORCH.items():
                if part in str(error):
                    pytest.skip(reason)
        raise


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that are marked ``pairwise``, leaves to the slow ones what shows no further pair.

    Most faults show in some pair of parameters. So the fast suite runs as many combinations as it
    takes for every two values of two parameters to meet; all of them run with the slow tests.
    """
    groups: dict[object, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("pairwise") is not None:
            assert isinstance(item, pytest.Function)
            groups[item.parent, item.originalname].append(item)
    for group in groups.values():
        kept = covering([_pairs(item) for item in group])
        for number, item in enumerate(group):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


def _pairs(item: pytest.Function) -> frozenset[object]:
    """The pairs of parameters that a test shows: none where it will be skipped."""
    skipped = any(mark.args and mark.args[0] is True for mark in item.iter_markers("skipif"))
    if skipped or not hasattr(item, "callspec"):
        return frozenset()
    values = sorted((name, repr(value)) for name, value in item.callspec.params.items())
    return frozenset(combinations_with_replacement(values, 2))


def covering(sets: Sequence[frozenset[object]]) -> set[int]:
    """The numbers of a few sets that hold what all of them hold, and of those that are empty."""
    kept = {number for number, members in enumerate(sets) if not members}
    missing = set().union(*sets)
    while missing:
        best = max(range(len(sets)), key=lambda number: len(sets[number] & missing))
        kept.add(best)
        missing -= sets[best]
    return kept
