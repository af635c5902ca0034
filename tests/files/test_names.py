"""Names that come out of files: which are plain, and which are refused."""

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skippose.files import NameRefused, as_plain_name, plain_name, plain_path
from skippose.files.names import LONGEST

BAD = [
    "", ".", "..", ".hidden", "../precious", "a/b", "/etc", "a\\b", "..\\precious", "C:", "c:\\x",
    "C:precious", "a\0b", "a\nb", "a\x7f", "a.", "a ", " a", ".. ", "\ud800", "x" * (LONGEST + 1),
    None, 3, b"bytes", ["a"],
]  # fmt: skip
GOOD = [
    "wave", "20_Rhythm_clap_u_nm_np1_fr_goo_0", "@20_x", "Torwart_2_(_sterreich)_catch", "300+!!!",
    "000001_mpii_test", "a.b", "a..b", "#3", "Käse", "two words", "-x", "x" * LONGEST,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD, ids=repr)
def test_a_name_that_may_lead_elsewhere_is_refused_and_named(name):
    with pytest.raises(NameRefused) as error:
        plain_name(name, "splits.txt, line 3")
    assert str(error.value).startswith("splits.txt, line 3: the name ")
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_stays_as_it_is(name):
    assert plain_name(name, "here") == name


@given(st.text())
def test_what_is_taken_stays_in_its_folder(name):
    root = Path("/data/out")
    try:
        plain_name(name, "here")
    except NameRefused:
        return
    assert Path(os.path.normpath(root / name)).parent == root
    assert (root / name).name == name


def test_a_path_is_of_plain_names():
    assert plain_path("images/val/0001.jpg", "here") == PurePosixPath("images/val/0001.jpg")
    for path in ("/etc/passwd", "a/../../b", "a//b", "a/", "..", "", "a/.b", "C:/x", "a\\..\\b", 7):
        with pytest.raises(NameRefused, match="here"):
            plain_path(path, "here")


@given(st.text())
def test_anything_gets_a_plain_name(text):
    assert plain_name(as_plain_name(text), "here")


def test_a_plain_name_shows_where_it_comes_from():
    assert as_plain_name("Rename_Images/run/a#0") == "Rename_Images_run_a#0"
    assert as_plain_name("../../x#0") == "_.._x#0"
    assert as_plain_name("..") == "_"
    assert as_plain_name("a#../..") == "a#.._"
