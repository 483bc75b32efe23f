"""AP before and after quantisation: what the results say stands in docs/export.md, and how it is measured."""

from __future__ import annotations

import pytest

from benchmarks import common, export_ap
from benchmarks.common import RESULTS, read_rows
from benchmarks.export_ap import BEGIN, END, PAGE, with_table
from foveal.cli import main
from foveal.data.scenes import write_scenes

LINE = {
    "network": "light", "size": "320", "split": "test", "pictures": "98", "precision": "float32", "AP": "69.4",
    "file_MB": "17.2", "float32_layers": "", "machine": "a machine", "versions": "python 3", "commit": "abc",
}  # fmt: skip


def test_the_page_says_what_the_results_say():
    results = RESULTS / "export_ap.csv"
    if not results.exists():
        pytest.skip("python -m benchmarks.export_ap has not been run yet")
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, read_rows(results)) == page, "run `python -m benchmarks.export_ap --table`"


def test_the_table_has_both_precisions_side_by_side_and_leaves_the_rest_of_the_page():
    int8 = {**LINE, "precision": "int8", "AP": "69.2", "file_MB": "4.8", "float32_layers": "none"}
    page = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", [LINE, int8])
    assert "| light | 320 | test | 98 | 69.4 | 69.2 | none | 17.2, 4.8 | abc |\n" in page
    assert "Machine and versions: a machine, python 3.\n" in page
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "old" not in page
    assert with_table(page, [LINE, int8]) == page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:nncf.*")
def test_a_run_is_scored_in_both_precisions_on_both_splits(tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    data, run = tmp_path / "scenes", tmp_path / "run"
    write_scenes(data, {"train": 8, "val": 3, "test": 4}, size=64, seed=3)
    flags = [
        "--model.weights=none", "--model.batch-norm=evaluating", "--model.levels=3-5", "--model.pyramid-channels=8",
        "--model.head-channels=8", "--model.head-depth=1", "--anchors.sizes", "16", "28", "48", "--data.size=64",
        "--data.max-size=64", "--data.workers=0", "--train.steps=2", "--train.batch-size=4", "--train.no-tensorboard",
        "--device=cpu", "--model.prior=0.1",
    ]  # fmt: skip
    assert main(["train", str(data), "--out", str(run), *flags]) == 0
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(export_ap, "RESULTS", tmp_path)
    monkeypatch.setattr(export_ap, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(f"{BEGIN}\n{END}\n")
    export_ap.main([str(data), "--run", str(run), "--name", "tiny", "--calibration", "4"])
    rows = read_rows(tmp_path / "export_ap.csv")
    assert [(row["split"], row["pictures"], row["precision"], row["calibration"]) for row in rows] == [
        ("val", "3", "float32", ""), ("val", "3", "int8", "4"),
        ("test", "4", "float32", ""), ("test", "4", "int8", "4"),
    ]  # fmt: skip
    assert all(0 <= float(row["AP"]) <= float(row["AP50"]) <= 100 for row in rows)
    assert float(rows[1]["file_MB"]) < float(rows[0]["file_MB"])
    assert all("nncf" in row["versions"] and row["machine"] and row["commit"] for row in rows)
    assert "| tiny | 64 | test | 4 |" in (tmp_path / "page.md").read_text()
