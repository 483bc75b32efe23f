"""The commands' own words: help that draws nothing, a list of all studies, numbers and names that are none."""

import re
from pathlib import Path

import pytest

from studies.__main__ import listing
from studies.command import draw, main, parser
from studies.table1b_gamma.run import STUDY as TABLE_1B
from studies.table1d_ohem.run import STUDY as TABLE_1D

ROOT = Path(__file__).resolve().parents[2]


def test_help_draws_nothing(capsys):
    for words, code in ((["--help"], 0), (["--seeds", "3"], 2)):
        with pytest.raises(SystemExit) as ended:
            draw("fig1_curves", "The focal loss against p_t.", [lambda: pytest.fail("drawn")], words)
        assert ended.value.code == code
    said = capsys.readouterr()
    assert said.out.startswith("usage: python -m studies.fig1_curves [-h]\n\nThe focal loss against p_t.")
    drawn = []
    assert draw("fig1_curves", "", [lambda: drawn.append(1), lambda: drawn.append(2)], []) == 0
    assert drawn == [1, 2]


@pytest.mark.parametrize("name", ["fig1_curves", "fig5_6_variants"])
def test_what_only_draws_goes_through_that_parser(name):
    main_file = (ROOT / "studies" / name / "__main__.py").read_text(encoding="utf-8")
    assert f'sys.exit(draw("{name}", ' in main_file


def test_all_studies_are_listed_with_a_line_each():
    lines = listing().splitlines()
    folders = sorted(path.parent.name for path in ROOT.glob("studies/*/__main__.py"))
    assert sorted(re.findall(r"python -m studies\.(\w+)", listing())) == folders
    assert any(re.fullmatch(r"  python -m studies\.table1b_gamma +Table 1b: the focal loss.*", one) for one in lines)
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize(
    ("text", "told"), [("x", "'x' is no whole number: give 1 or more"), ("0", "0: give 1 or more")]
)
def test_a_count_that_is_none_is_told_in_words(text, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(TABLE_1B, ["--seeds", text])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"argument --seeds: {told}\n")


@pytest.mark.parametrize("inside", ["", "/runs"])
def test_a_file_in_place_of_the_folder_of_runs_is_told_in_words(inside, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert main(TABLE_1B, ["--dry-run", "--runs", f"{tmp_path / 'file'}{inside}"]) == 2
    assert f"{tmp_path / 'file'}: is a file; give a folder with --runs" in capsys.readouterr().err


def test_help_lists_rows_as_they_are_typed():
    assert '\n  "OHEM 128, NMS 0.7"\n  "OHEM 256, NMS 0.7"\n' in parser(TABLE_1D).format_help()
