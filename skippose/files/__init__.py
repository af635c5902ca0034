"""Names that come from data, and what tools make: nothing else is written over or removed."""

from .names import NameRefused, as_plain_name, plain_name, plain_path
from .output import Output, OutputRefused, replace_file

__all__ = [
    "NameRefused",
    "Output",
    "OutputRefused",
    "as_plain_name",
    "plain_name",
    "plain_path",
    "replace_file",
]
