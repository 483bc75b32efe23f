"""The curves of figures 1, 5 and 6: the paper's numbers are on them, and the committed points are the losses'."""

import csv
import math
import re
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


@pytest.mark.parametrize(
    ("gamma", "alpha", "told"), [(0.0, 0.75, "132"), (0.5, 0.5, "40"), (1.0, 0.25, "12"), (2.0, 0.25, ".12")]
)
def test_the_background_of_a_fresh_net_weighs_what_the_document_says(gamma, alpha, told):
    assert background_share(alpha, gamma) == pytest.approx(float(told), rel=0.01)
    cells = [f"{number:g}".lstrip("0") or "0" for number in (gamma, alpha)]
    assert re.search(rf"^\| {re.escape(cells[0])} \| {re.escape(cells[1])} \|.* {re.escape(told)} \|", LOSSES, re.M)


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 0.5), (0.5, 0.75), (2.0, 0.25)])
def test_the_documents_formula_is_the_losses(gamma, alpha):
    assert 395 * (1 - alpha) / alpha / 99**gamma == pytest.approx(background_share(alpha, gamma), rel=0.002)
    assert "395 * (1 - alpha) / alpha / 99^gamma" in LOSSES


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
