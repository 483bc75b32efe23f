"""The examples run, and do what they say."""

import runpy
from pathlib import Path

import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_the_plain_loop_learns(capsys):
    with torch.random.fork_rng():
        losses = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["losses"]
    first, last = sum(losses[:4]) / 4, sum(losses[-4:]) / 4
    assert last < 0.7 * first
    assert f"epoch 2: loss {losses[-1]:.3f}" in capsys.readouterr().out


def test_the_plain_loop_is_short_enough_to_read():
    loop = (EXAMPLES / "plain_loop.py").read_text().split("torch.manual_seed(0)")[1]
    assert len(loop.strip().splitlines()) <= 20


def test_every_example_is_run_here():
    elsewhere = {"onnx_alone.py"}  # needs an exported file: tests/export/test_exporting.py
    assert {path.name for path in EXAMPLES.glob("*.py")} - elsewhere == {"plain_loop.py"}
