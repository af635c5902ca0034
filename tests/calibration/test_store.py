"""What a calibration has measured, in a file."""

import json

import pytest

from skippose.calibration.store import Store


def test_what_was_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "cache" / "found.json"
    assert Store(path, "this").get(["run", 1], lambda: 3) == 3
    store = Store(path, "this")
    assert store.get(["run", 1], lambda: 4) == 3 and store.reused == 1
    assert Store(path, "another").get(["run", 1], lambda: 4) == 4
    assert [p.name for p in path.parent.iterdir()] == ["found.json"]


def test_a_store_that_was_cut_off_is_begun_anew(tmp_path):
    path = tmp_path / "found.json"
    Store(path, "this").get(["run", 1], lambda: 3)
    path.write_text(path.read_text()[:-4])
    assert Store(path, "this").get(["run", 1], lambda: 4) == 4


@pytest.mark.parametrize("content", ["", "mine", "[1, 2]", '{"PCK": 0.9}'])
def test_a_file_of_somebody_elses_is_left_alone(tmp_path, content):
    path = tmp_path / "found.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"found\.json: not what a calibration has measured"):
        Store(path, "this")
    assert path.read_text() == content


def test_the_file_is_json(tmp_path):
    Store(tmp_path / "found.json", "this").get(["run"], lambda: [1.5])
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["identity"] == "this" and list(content["results"].values()) == [[1.5]]
