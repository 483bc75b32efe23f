"""docs/paper.md: each claim names a file and a test that exist, or tells of a result that does, or says it has none."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
CLAIMS = [row for row in ROWS if row[0] not in ("claim", "---")]
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
}


def test_there_are_claims():
    assert len(CLAIMS) > 50
    assert all(len(row) == 3 and all(row) for row in CLAIMS)
    assert len({row[0] for row in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize(("claim", "where", "held"), CLAIMS, ids=range(len(CLAIMS)))
def test_a_claim_has_its_place_and_its_proof_or_says_that_there_is_none(claim, where, held):
    named = re.findall(r"`(test_\w+)`", held)
    assert set(named) <= TESTS
    measured = re.match(r"small scale: ", held)
    assert bool(named) + bool(measured) + ("not measured yet" in held) == 1
    if measured:
        [study] = re.findall(r"\(\.\./(studies/\w+)/README\.md\)", where)
        assert (ROOT / study / "result.csv").exists()
    for file in re.findall(r"`([\w/.]+\.py)`", where):
        assert (ROOT / "src" / "foveal" / file).exists()
