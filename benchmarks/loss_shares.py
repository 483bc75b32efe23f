"""The table and the figure of docs/analysis.md: who holds the class loss of a run on the blood cells.

    python -m benchmarks.loss_shares runs/hardest/seed-0-300-steps/trained-on DATA

Any run will do; that of `benchmarks.hardest` says at which commit it was trained. Shares go into
results/loss_shares.csv, from which the table is written; the figure is drawn of the same pass over the split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, read_rows, write_rows
from foveal.analysis.loss_distribution import OWN, LossDistribution, loss_distribution
from foveal.analysis.loss_figures import cdf_figure, save
from foveal.engine.checkpoint import write_text
from foveal.engine.evaluate import evaluate

BEGIN, END = "<!-- shares: written by python -m benchmarks.loss_shares -->", "<!-- end of shares -->"
PAGE = ROOT / "docs" / "analysis.md"
FIGURE = ROOT / "docs" / "images" / "losses.png"
PARTS = ("all", "1 %", "10 %", "20 %", "easy")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    chosen = parser.parse_args(arguments)
    found = loss_distribution(chosen.run, chosen.data, chosen.split)
    ap = evaluate(chosen.run, chosen.data, chosen.split).numbers["AP"]
    of_run = {"preset": "light", "split": chosen.split, "AP": round(100 * (ap or 0), 1)} | trained(chosen.run)
    write_rows("loss_shares", [of_run | row for row in shares(found)])
    save(cdf_figure(found), FIGURE)
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), read_rows(RESULTS / "loss_shares.csv")))


def trained(run: Path) -> dict[str, Any]:
    """How long a run was trained and at which commit, as the benchmark that trained it noted, or as far as is known."""
    noted = run / "row.json"
    if noted.exists():
        row = json.loads(noted.read_text(encoding="utf-8"))
        return {"steps": row["steps"], "trained_at": row["commit"]}
    return {
        "steps": json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"],
        "trained_at": "not recorded",
    }


def shares(found: LossDistribution) -> list[dict[str, Any]]:
    """A row for each gamma: what the background holds of the loss and of the gradient, in percent."""
    rows = []
    for loss, part in found.overall.items():
        side = part["background"]
        held = dict(zip(PARTS, (side.of_all, *side.hardest.values(), side.easy), strict=True))
        row = {"loss": loss, "elements": side.elements, "easy_elements": _percent(side.easy_elements, 2)}
        row |= {f"loss, {name}": _percent(share.loss, 1) for name, share in held.items()}
        row |= {f"gradient, {name}": _percent(share.gradient, 1) for name, share in held.items()}
        rows += [row] if loss != OWN else []
    return rows


def with_table(page: str, lines: list[dict[str, str]]) -> str:
    """The page with its table as the lines of results/loss_shares.csv have it."""
    one = lines[0]
    head = " " * 11 + "loss" + " " * 27 + "gradient"
    names = f"{'loss':<9}" + (" " * 5).join("".join(f"{name:>6}" for name in PARTS) for _ in range(2))
    rows = [
        f"{line['loss']:<9}"
        + (" " * 5).join("".join(f"{line[f'{what}, {name}']:>6}" for name in PARTS) for what in ("loss", "gradient"))
        for line in lines
    ]
    elements = f"{int(one['elements']):,} elements, {one['easy_elements']} % of them easy (p_t > .9)"
    table = "\n".join(["```text", f"background: {elements}", "", head, names, "─" * len(names), *rows, "```"])
    told = (
        f"The run: `{one['preset']}`, {one['steps']} steps, trained at commit {one['trained_at']}, {one['AP']} AP on "
        f"{one['split']}. Measured at commit {one['commit']}, {one['machine']}; `benchmarks/results/loss_shares.csv`."
    )
    before, rest = page.split(BEGIN)
    return "\n\n".join([before + BEGIN, told, table, END + rest.split(END)[1]])


def _percent(share: float | None, digits: int) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


if __name__ == "__main__":
    main()
