"""What the oldest supported versions cannot do, whatever skippose does."""

from collections.abc import Generator

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
