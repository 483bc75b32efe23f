"""The benchmark of training on with the hardest: its rows differ in nothing else, and none is run twice."""

import json
from pathlib import Path

import pytest

from benchmarks import common, hardest
from foveal.config import differences, load_config
from foveal.data.scenes import write_scenes

TINY = {
    "model.backbone": "resnet18",
    "model.batch_norm": "evaluating",
    "model.levels": "3-5",
    "model.pyramid_channels": 8,
    "model.head_channels": 8,
    "model.head_depth": 1,
    "data.size": 64,
    "data.max_size": 64,
    "data.workers": 0,
    "train.batch_size": 2,
    "train.warmup": 0,
}


def line(row: str, seed: int, ap: float) -> dict[str, str]:
    steps = "300" if row == "first" else "600"
    numbers = {"AP": str(ap), "AP50": str(ap + 20), "AP75": str(ap + 10)}
    return {"row": row, "seed": str(seed), "first_steps": "300", "steps": steps, **numbers} | {
        "commit": "abc1234",
        "machine": "a machine (2 cores)",
    }


def page(text: str = "") -> str:
    return f"# Mining\n\n{hardest.BEGIN}\n{text}\n{hardest.END}\n\nmore\n"


def test_the_page_says_what_the_results_say() -> None:
    file = common.RESULTS / "hardest.csv"
    found = common.read_rows(file) if file.exists() else []
    text = hardest.PAGE.read_text(encoding="utf-8")
    assert hardest.with_table(text, found) == text, "run `python -m benchmarks.hardest --table`"


def test_a_table_has_each_seed_the_means_and_the_paired_difference() -> None:
    found = [line("trained on, hardest", seed, ap) for seed, ap in ((0, 72.0), (1, 74.0), (2, 76.0))]
    found += [line("trained on", seed, 71.0) for seed in (2, 1, 0)] + [line("first", 0, 69.4)]
    text = hardest.with_table(page("old"), found)
    assert "old" not in text
    assert text.startswith("# Mining\n")
    assert text.endswith("\n\nmore\n")
    table = [one for one in text.splitlines() if one.startswith("|")]
    assert table[2:] == [
        "| first | 300 | 69.4 |  |  | 69.4 | 89.4 |",
        "| trained on | 600 | 71.0 | 71.0 | 71.0 | 71.0 | 91.0 |",
        "| trained on, hardest | 600 | 72.0 | 74.0 | 76.0 | 74.0 | 94.0 |",
    ]
    # Differences 1, 3, 5: 3 with 4.303 x 2 / sqrt 3 on either side.
    assert "without it: +3.0 ± 5.0 AP, +3.0 ± 5.0 AP50. Commit abc1234, a machine (2 cores)." in text


def test_without_results_the_page_says_so_and_one_seed_has_no_interval() -> None:
    assert "Not run yet." in hardest.with_table(page(), [])
    text = hardest.with_table(page(), [line("trained on", 0, 70.0), line("trained on, hardest", 0, 69.0)])
    assert "without it: -1.0 AP, -1.0 AP50." in text
    assert "without it" not in hardest.with_table(page(), [line("first", 0, 70.0)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "data", {"train": 6, "val": 2, "test": 3}, size=64, seed=3)
    return tmp_path / "data"


def test_two_seeds_of_a_few_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "mining.md"
    text.write_text(page(), encoding="utf-8")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(hardest, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(hardest, "PAGE", text)
    monkeypatch.setattr(hardest, "RECIPE", hardest.RECIPE | TINY)
    monkeypatch.setattr(hardest, "HARDEST", 2)
    runs = tmp_path / "runs"
    command = [str(data), "--weights", "none", "--seeds", "2", "--steps", "2", "--runs", str(runs)]
    hardest.main(command)

    found = common.read_rows(tmp_path / "results" / "hardest.csv")
    assert [(one["seed"], one["row"], one["steps"]) for one in found] == [
        (str(seed), row, steps) for seed in (0, 1) for row, steps in zip(hardest.ROWS, ("2", "4", "4"), strict=True)
    ]
    assert hardest.with_table(text.read_text(encoding="utf-8"), found) == text.read_text(encoding="utf-8")
    folder = runs / "seed-1-2-steps"
    plain, harder = (load_config(folder / name / "config.yaml") for name in ("trained-on", "trained-on-hardest"))
    assert {name for name, _, _ in differences(plain, harder)} == {"data.oversample"}
    assert (plain.seed, plain.train.steps, harder.data.oversample_times) == (1, 2, 3)
    assert Path(harder.data.oversample).read_text(encoding="utf-8").count("\n") == 2

    # What is done stays as it is, and half a run is made anew.
    monkeypatch.setattr(hardest, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(hardest, "train_on", lambda *_, **__: pytest.fail("trained again"))
    (folder / "trained-on-hardest" / "row.json").unlink()
    kept = json.loads((folder / "first" / "row.json").read_text(encoding="utf-8"))
    (folder / "first" / "row.json").write_text(json.dumps(kept | {"commit": "0000000"}), encoding="utf-8")
    hardest.main(command)
    again = common.read_rows(tmp_path / "results" / "hardest.csv")
    same = ("row", "seed", "steps", "AP", "AP50")
    assert [[one[name] for name in same] for one in again] == [[one[name] for name in same] for one in found]
    assert next(one["commit"] for one in again if one["seed"] == "1") == "0000000"
