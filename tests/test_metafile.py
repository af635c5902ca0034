"""configs/small/metafile.yml says what the results' files say."""

import csv
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
CONTENT = yaml.safe_load((ROOT / "configs/small/metafile.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", CONTENT["Models"], ids=lambda model: model["Name"])
def test_a_model(model):
    assert (ROOT / model["Config"]).is_file()
    assert (ROOT / model["Weights"]).is_file()
    assert model["In Collection"] in {entry["Name"] for entry in CONTENT["Collections"]}
    about = model["Metadata"]
    with (ROOT / about["Results File"]).open(newline="", encoding="utf-8") as file:
        (row,) = [
            line
            for line in csv.DictReader(file)
            if (line["row"], line["clips"], line["perturb"])
            == (about["Results Row"], "all", "none")
        ]
    assert about["GMACs per Frame"] == round(float(row["GMACs"]), 4)
    (results,) = model["Results"]
    for name, value in results["Metrics"].items():
        assert value == pytest.approx(100 * float(row[name]), abs=0.0501), name


def test_names_are_unique():
    names = [model["Name"] for model in CONTENT["Models"]]
    assert len(set(names)) == len(names)
