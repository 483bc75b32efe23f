"""docs/analysis.md's table is what the results say, and both are what the loss distribution says."""

import json
from pathlib import Path

import pytest

from benchmarks import common, loss_shares
from foveal import loss_distribution, train
from foveal.data.scenes import write_scenes
from foveal.engine.checkpoint import RunInfo

PAGE = f"# Loss\n\n{loss_shares.BEGIN}\nold\n{loss_shares.END}\n\nmore\n"


def test_the_page_says_what_the_results_say() -> None:
    file, page = common.RESULTS / "loss_shares.csv", loss_shares.PAGE.read_text(encoding="utf-8")
    if file.exists():
        assert loss_shares.with_table(page, common.read_rows(file)) == page
    else:
        assert "no results file" in page.split(loss_shares.BEGIN)[1].split(loss_shares.END)[0]


def test_a_runs_background_is_measured_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "analysis.md"
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(loss_shares, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(loss_shares, "PAGE", page)
    monkeypatch.setattr(loss_shares, "FIGURE", tmp_path / "losses.png")
    data, run = tmp_path / "data", tmp_path / "run"
    write_scenes(data, {"train": 4, "val": 3}, size=64, seed=3)
    settings = {
        "model": {"backbone": "resnet18", "weights": "none", "batch_norm": "evaluating", "levels": "3-5"},
        "data": {"size": 64, "max_size": 64, "workers": 0},
        "train": {"steps": 2, "batch_size": 2, "warmup": 0, "tensorboard": False},
    }
    assert isinstance(train(data, run, settings=settings), RunInfo)
    (run / "row.json").write_text(json.dumps({"steps": 600, "commit": "abc1234"}), encoding="utf-8")
    loss_shares.main([str(run), str(data)])

    lines = common.read_rows(tmp_path / "results" / "loss_shares.csv")
    found = loss_distribution(run, data, split="val")
    assert [line["loss"] for line in lines] == ["gamma 0", "gamma 0.5", "gamma 1", "gamma 2"]
    for line in lines:
        side = found.overall[line["loss"]]["background"]
        assert float(line["loss, all"]) == pytest.approx(100 * side.of_all.loss, abs=0.051)
        assert float(line["gradient, 1 %"]) == pytest.approx(100 * side.hardest[0.01].gradient, abs=0.051)
        assert float(line["loss, 20 %"]) == pytest.approx(100 * side.hardest[0.2].loss, abs=0.051)
    text = page.read_text(encoding="utf-8")
    # The command's own lines, as it prints them.
    printed = [line.rstrip() for line in str(found).splitlines()]
    told = text.split("```text\n")[1].split("\n```")[0].splitlines()
    assert all(line in printed for line in told), set(told) - set(printed)
    assert "600 steps, trained at commit abc1234, " in text
    assert "old" not in text
    assert text.endswith("\n\nmore\n")
    assert (tmp_path / "losses.png").stat().st_size > 5000
