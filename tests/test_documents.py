"""What the documents say is so: commands, flags, names, files, checksums; and both READMEs say the same."""

import ast
import dataclasses
import hashlib
import json
import re
import runpy
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveal
from foveal.cli import HELP, main
from foveal.commands import COMMANDS
from foveal.config import field_names, preset

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "foveal"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ENGLISH, KOREAN = (ROOT / name for name in ("README.md", "README.ko.md"))

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")
SUFFIXES = {"py", "json", "csv", "yaml", "onnx", "xml", "bin", "pt2", "safetensors"}
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(document.read_text(encoding="utf-8")) if found == language]


def prose(document: Path) -> str:
    return BLOCK.sub("", document.read_text(encoding="utf-8"))


def sections(document: Path) -> list[tuple[str, str]]:
    """(heading, text below it up to the next) of a document's prose."""
    parts = re.split(r"^(#+ .*)$", prose(document), flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def tables(document: Path) -> list[list[list[str]]]:
    """Rows of cells, heading and rule left out."""
    found = re.findall(r"(?:^\|.*\|\n)+", prose(document), flags=re.M)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()[2:]] for t in found]


def command_lines(document: Path) -> Iterator[str]:
    """What follows `foveal` in each line of a document's shell blocks, started by torchrun or not."""
    for block in blocks(document, "sh"):
        for line in block.splitlines():
            words = re.match(r"(?:torchrun .* -m foveal\.cli|foveal) (.*)", line)
            if words:
                yield words[1]


def test_commands_name_no_weight_file_that_the_reader_does_not_have():
    for document in DOCUMENTS:
        named = re.findall(r"--model\.weights (\S+\.(?:pth|safetensors))", "\n".join(command_lines(document)))
        assert not named, document.name


# -- two languages -----------------------------------------------------------------------------------------------------


def test_both_readmes_have_the_same_headings():
    levels = [[heading.split()[0] for heading, _ in sections(readme)] for readme in (ENGLISH, KOREAN)]
    assert levels[0] == levels[1]
    assert len(levels[0]) > 10


def test_both_readmes_have_the_same_code():
    assert BLOCK.findall(ENGLISH.read_text()) == BLOCK.findall(KOREAN.read_text(encoding="utf-8"))


def test_both_readmes_name_the_same_commands_files_and_settings_in_each_section():
    for (heading, english), (_, korean) in zip(sections(ENGLISH), sections(KOREAN), strict=True):
        assert set(INLINE.findall(english)) == set(INLINE.findall(korean)), heading


def test_both_readmes_have_the_same_links_and_the_same_picture():
    english, korean = (Counter(LINK.findall(prose(readme))) for readme in (ENGLISH, KOREAN))
    assert english - Counter([KOREAN.name]) == korean - Counter([ENGLISH.name])
    assert english[KOREAN.name] == korean[ENGLISH.name] == 1
    assert "![" in prose(ENGLISH)
    assert "![" in prose(KOREAN)


def test_both_readmes_have_the_same_tables():
    for english, korean in zip(tables(ENGLISH), tables(KOREAN), strict=True):
        assert len(english) == len(korean)
        for ours, theirs in zip(english, korean, strict=True):
            numbers = [[cell for cell in row if re.fullmatch(r"[\d.,± –-]+", cell)] for row in (ours, theirs)]
            assert numbers[0] == numbers[1]
            assert len(ours) == len(theirs)


def test_every_measured_row_names_command_commit_and_machine():
    for readme in (ENGLISH, KOREAN):
        marked = re.search(r"<!-- table: bloodcells -->\n(.*?)<!-- end -->", readme.read_text(encoding="utf-8"), re.S)
        assert marked
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in marked[1].splitlines()]
        assert len(rows) > 3
        assert all(len(row) == 7 and all(row) for row in rows)


# -- code and commands -------------------------------------------------------------------------------------------------


@each_document
def test_python_in_documents_parses_and_names_what_foveal_has(document):
    for code in blocks(document, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "foveal":
                assert node.attr in foveal.__all__


def test_the_six_lines_are_those_of_the_package():
    [six] = blocks(ENGLISH, "python")
    assert len(six.splitlines()) == 6
    assert foveal.__doc__ is not None
    assert all(f"    {line}\n" in foveal.__doc__ for line in six.splitlines())


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d != KOREAN], ids=lambda path: path.name)
def test_every_command_line_in_a_document_is_understood(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, settings in enumerate(blocks(document, "yaml")):
        (tmp_path / ("cells.yaml" if number == 0 else f"{number}.yaml")).write_text(settings)
    (tmp_path / "runs" / "cells").mkdir(parents=True)
    (tmp_path / "runs" / "cells" / "config.yaml").write_text(preset("light").to_yaml())
    for command in COMMANDS.values():
        monkeypatch.setattr(command, "run", lambda self: 0)
    for line in command_lines(document):
        assert main(shlex.split(line)) == 0, line


def test_the_readme_shows_every_command_and_the_help_too():
    shown = {line.split()[0] for line in command_lines(ENGLISH)} | {"demo"}
    assert shown >= set(COMMANDS)
    assert all(f"\n  {name} " in HELP for name in COMMANDS)


@each_document
def test_every_flag_in_a_document_exists(document):
    fields = [f.name for command in COMMANDS.values() for f in dataclasses.fields(command)]
    known = {"--" + name.replace("_", "-") for name in [*fields, *field_names()]}
    known |= {"--no-resize", "--no-nms", "--anchors.no-auto"}  # how a flag that is on by itself is turned off
    known |= {"--help", "--minutes", "--skip-bad"}
    known.add("--nproc-per-node")  # torchrun's
    known.add("--from")  # a word of Python's, so no field can be called so
    for benchmark in (ROOT / "benchmarks").rglob("*.py"):
        known |= set(re.findall(r"add_argument\(\s*\"(--[\w-]+)", benchmark.read_text(encoding="utf-8")))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", document.read_text(encoding="utf-8"))) <= known


@each_document
def test_every_setting_in_a_document_exists(document):
    groups = {name.split(".")[0] for name in field_names() if "." in name}
    dotted = [re.match(r"(\w+)\.(\w+)", code) for code in INLINE.findall(prose(document))]
    settings = {found[0] for found in dotted if found and found[1] in groups and found[2] not in SUFFIXES}
    assert settings <= set(field_names())


@each_document
def test_every_make_target_in_a_document_exists(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(encoding="utf-8"), re.M)) <= targets


# -- files -------------------------------------------------------------------------------------------------------------


@each_document
def test_every_link_leads_to_a_file(document):
    local = [link for link in LINK.findall(prose(document)) if "://" not in link]
    assert [link for link in local if not (document.parent / link.split("#")[0]).exists()] == []


@each_document
def test_every_file_of_ours_that_a_document_names_exists(document):
    ours = re.compile(r"(?:src|docs|tests|examples|benchmarks)/[\w./-]*|[\w./-]+\.py|[A-Z]\w+(?:\.ko)?\.md")
    named = [code for code in INLINE.findall(prose(document)) if ours.fullmatch(code)]
    assert [name for name in named if not (ROOT / name).exists() and not (SOURCE / name).exists()] == []
    modules = re.findall(r"python -m (benchmarks\.\w+)", document.read_text(encoding="utf-8"))
    paths = [ROOT / name.replace(".", "/") for name in modules]
    assert all(path.with_suffix(".py").exists() or (path / "__main__.py").exists() for path in paths)


def test_the_changelog_knows_this_version():
    assert f"\n## [{foveal.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_decision_has_a_date():
    decisions = [heading for heading, _ in sections(ROOT / "docs" / "decisions.md") if heading.startswith("### ")]
    assert len(decisions) > 20
    assert all(re.search(r" \(20\d\d-\d\d-\d\d\)$", heading) for heading in decisions)


# -- the tour ----------------------------------------------------------------------------------------------------------


def defined_in(file: Path) -> set[str]:
    """Functions and classes of a file, and methods as Class.method."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return found


def stops() -> list[tuple[list[str], str]]:
    """(files, text) of each stop of the tour."""
    found = sections(ROOT / "docs" / "tour.md")
    return [(INLINE.findall(heading), text) for heading, text in found if heading.startswith("### ")]


def test_the_tour_stops_once_at_every_file():
    visited = [file for files, _ in stops() for file in files]
    there = [str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(visited) == sorted(there)


@pytest.mark.parametrize(("files", "text"), stops(), ids=lambda part: part[0] if isinstance(part, list) else "")
def test_what_the_tour_names_is_where_it_says(files, text):
    named = [name.removesuffix("()") for name in INLINE.findall(text) if name.endswith("()")]
    there = set.union(*(defined_in(SOURCE / file) for file in files))
    assert named
    assert [name for name in named if name not in there] == []


# -- data --------------------------------------------------------------------------------------------------------------


def test_the_csv_of_the_readme_is_read(tmp_path):
    [rows] = blocks(ENGLISH, "csv")
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "images").mkdir()
    for name in {line.split(",")[0] for line in rows.splitlines()}:
        Image.fromarray(np.zeros((100, 150, 3), dtype=np.uint8)).save(tmp_path / name)
    table = foveal.read_data(tmp_path)
    assert table.problems == ()
    assert table.class_names == ("RBC", "WBC")
    assert table.objects(0).boxes.tolist() == [[12, 30, 58, 77], [90, 14, 131.5, 52]]
    assert [len(table.objects(row)) for row in range(len(table))] == [2, 0]


def test_bloodcells_is_what_the_readme_says(bloodcells):
    files = [bloodcells / f"{split}.json" for split in ("train", "val", "test")]
    printed = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    pictures = sorted((path for path in bloodcells.glob("images/*/*")), key=lambda path: str(path).encode())
    listing = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(bloodcells)}\n" for p in pictures]
    printed.append(hashlib.sha256("".join(listing).encode()).hexdigest() + "  -\n")
    assert "".join(printed) in blocks(ENGLISH, "text")
    counted = []
    for file in files:
        content = json.loads(file.read_text())
        classes = Counter(annotation["category_id"] for annotation in content["annotations"])
        counted.append([file.stem, *map(str, [len(content["images"]), classes[1], classes[2], classes[3]])])
    assert tables(ENGLISH)[-1] == counted


def test_bloodcells_is_made_from_yolo_text_without_the_pictures_of_other_sizes(tmp_path, capsys):
    source = tmp_path / "source"
    for split in ("train", "val", "test"):
        for name, size in (("a", (575, 575)), ("b", (640, 480)), ("c", (360, 363)), ("d", (366, 369))):
            for folder in ("images", "labels"):
                (source / folder / split).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(source / "images" / split / f"{name}.jpg")
            (source / "labels" / split / f"{name}.txt").write_text("1 0.5 0.25 0.2 0.6\n")
    out = tmp_path / "out"
    runpy.run_path(str(ROOT / "benchmarks" / "bloodcells_data.py"))["convert"](source, out)
    assert capsys.readouterr().out.count("2 pictures") == 3
    content = json.loads((out / "val.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["val/a.jpg", "val/c.jpg"]
    # The upper .05 of the height lie outside: 0 to .55 of it are left.
    assert [a["bbox"] for a in content["annotations"]] == [[230, 0, 115, 316.25], [144, 0, 72, 199.65]]
    assert {a["category_id"] for a in content["annotations"]} == {2}
    assert foveal.read_data(out, split="test").num_boxes == 2
