"""The curves of figures 1, 5 and 6: the paper's numbers are on them, and the committed points are the losses'."""

import csv
import math
from pathlib import Path

import pytest
import torch

from studies.fig1_curves import run as fig1
from studies.fig1_curves.documents import IMAGES, background_share, draw_documents
from studies.fig5_6_variants import run as fig5_6
from studies.fig5_6_variants.documents import draw_documents as draw_family

ROOT = Path(__file__).resolve().parents[2]
LOSSES = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")


def read_points(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}


@pytest.mark.parametrize("study", [fig1, fig5_6], ids=["figure 1", "figures 5 and 6"])
def test_the_points_that_are_committed_are_what_the_losses_say(study):
    committed, now = read_points(study.HERE / "points.csv"), study.points()
    assert list(committed) == list(now)
    for name, values in now.items():
        assert committed[name] == pytest.approx(values, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("p_t", "times"), [(0.5, 4), (0.9, 100), (0.968, 1000)])
def test_figure_1_has_the_papers_three_examples(p_t, times):
    at = torch.tensor([p_t], dtype=torch.float64)
    assert float(fig1.curve(0.0, at) / fig1.curve(2.0, at)) == pytest.approx(times, rel=0.03)
    assert f"{times} times" in LOSSES


def test_figures_5_and_6_by_hand_at_x_t_0():
    points = fig5_6.points()
    middle = points["x_t"].index(0.0)
    # p_t is .5: CE ln 2; FL ln 2 / 4; FL* (2, 1) ln(1 + 1/e) / 2; FL* (4, 0) ln 2 / 4.
    ln2 = math.log(2)
    expected = [ln2, ln2 / 4, math.log1p(math.exp(-1)) / 2, ln2 / 4]
    assert [points[name][middle] for name in fig5_6.MEMBERS] == pytest.approx(expected)
    # -.5; .25 (2 x .5 x ln .5 - .5); sigmoid(1) - 1; -.5.
    slopes = [-0.5, 0.25 * (-ln2 - 0.5), 1 / (1 + math.exp(-1)) - 1, -0.5]
    assert [points[f"d {name}"][middle] for name in fig5_6.MEMBERS] == pytest.approx(slopes)


def test_the_background_of_a_fresh_net_weighs_what_the_document_says():
    assert background_share(0.75, 0.0) == pytest.approx(132, rel=0.01)
    assert background_share(0.25, 2.0) == pytest.approx(1 / 8, rel=0.06)
    assert "132 times" in LOSSES
    assert "an eighth" in LOSSES


def test_every_picture_of_the_losses_is_drawn_by_a_study_and_small(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.fig1_curves.documents.IMAGES", tmp_path)
    monkeypatch.setattr("studies.fig5_6_variants.documents.IMAGES", tmp_path)
    draw_documents()
    draw_family()
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in IMAGES.glob("loss-*.png"))
    assert all(f"images/{name}" in LOSSES for name in drawn)
    pictures = [*IMAGES.glob("loss-*.png"), *(ROOT / "studies").glob("*/figure.png")]
    assert all(path.stat().st_size < 150_000 for path in pictures)
