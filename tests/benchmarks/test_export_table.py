"""docs/export.md's table of speed is what benchmarks/results say."""

from benchmarks.common import RESULTS, read_rows
from benchmarks.export import PAGE, cell, row, with_table


def test_the_page_says_what_the_results_say():
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, read_rows(RESULTS / "export.csv")) == page, "run `python -m benchmarks.export --table`"


def test_a_cell_has_the_time_and_how_many_times_as_fast_it_is():
    line = {"engine": "openvino", "median_ms": "85.04", "times_faster": "1.4"}
    assert cell(line) == "85.0, 1.40 x"
    assert cell({**line, "engine": "torch"}) == "85.0"


def test_the_ratio_is_the_median_over_turns():
    taken = {"torch": [[0.2, 0.4, 0.3], [0.3], [0.3]], "openvino": [[0.1], [0.3], [0.1, 0.2, 0.15]]}
    made = row("openvino", 608, taken, {})
    assert made["times_faster"] == 2  # of 3, 1 and 2
    assert (made["times_faster_min"], made["times_faster_max"], made["turns"], made["runs"]) == (1, 3, 3, 5)
    assert made["median_ms"] == 150
