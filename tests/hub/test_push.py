import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from rectangles import config
from safetensors import safe_open
from stand_in import READ_ONLY
from tiny_run import CLASSES, DATA

import foveal
from foveal.config import flat_settings
from foveal.engine.checkpoint import read_run, run_weights
from foveal.errors import HubError, UsageError
from foveal.hub.pushing import push, write_published
from foveal.runtime.publishing import publishable

# huggingface_hub's own, when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "alice/cells"
FILES = {"README.md", "best.safetensors", "classes.json", "config.yaml", "evaluation.json", "result.json"}
PRIVATE = ("/home", "someone", "secret", "own-net.pth/", "hardest", "Linux", "fingerprint", "f00", "tmp")


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_pushed_run_is_loaded_and_finds_the_same(hub, trained):
    assert push(trained, NAME, license="mit") == f"hf://{NAME}"
    picture = torch.randint(0, 255, (3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    here, there = foveal.load(trained), foveal.load(f"hf://{NAME}")
    assert there.class_names == CLASSES
    assert there.category_ids == (3, 90)
    assert there.threshold == 0.31
    found = [detector(picture, min_score=0.001) for detector in (here, there)]
    assert len(found[0]) > 0
    torch.testing.assert_close(found[1].boxes, found[0].boxes, rtol=0, atol=0)
    torch.testing.assert_close(found[1].scores, found[0].scores, rtol=0, atol=0)


def test_only_what_is_needed_travels(hub, trained):
    push(trained, NAME)
    assert set(hub.files(NAME)) == FILES


def test_nothing_private_is_in_what_is_pushed(hub, trained):
    kept = " ".join(file.read_text() for file in trained.iterdir() if file.suffix in (".yaml", ".json"))
    assert all(word in kept for word in (DATA, "own-net.pth", "hardest.txt", "Linux-of-someone", "fingerprint"))
    push(trained, NAME)
    for path, data in hub.files(NAME).items():
        header = data[: int.from_bytes(data[:8], "little") + 8] if path.endswith(".safetensors") else data
        text = header.decode("utf-8", "replace")
        assert [word for word in (*PRIVATE, str(trained)) if word in text] == [], path


def test_every_setting_that_may_hold_a_path_is_known():
    words = [name for name, value in flat_settings(config()).items() if isinstance(value, str)]
    free = {"model.weights", "data.oversample"}  # what `publishable` clears
    refused = {"model.backbone"}  # where it is a path, the run is not pushed
    no_paths = {"model.levels", "data.train_split", "data.val_split"}
    choices = {
        "model.batch_norm", "model.p6_from", "model.head_norm", "model.head_init", "anchors.offset",
        "anchors.stride", "assignment.low_quality", "assignment.padding", "loss.name", "loss.balance", "loss.mining",
        "loss.box", "loss.normaliser", "data.format", "train.optimiser", "train.schedule", "train.precision",
    }  # fmt: skip
    assert set(words) == free | refused | no_paths | choices


def test_a_run_with_a_backbone_of_transformers_is_not_pushed(hub, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "config.yaml").write_text(config(**{"model.backbone": "hf:/home/someone/net"}).to_yaml())
    with pytest.raises(UsageError, match="its backbone is one of transformers"):
        push(folder, NAME)
    assert NAME not in hub.repositories


@pytest.mark.parametrize(
    ("backbone", "published"),
    [("hf:/home/me/net", "hf:net"), ("hf:C:\\me\\net", "hf:net"), ("hf:microsoft/resnet-50", "hf:microsoft/resnet-50")],
)
def test_of_a_backbones_folder_the_name_is_left(backbone, published):
    assert publishable(config(**{"model.backbone": backbone})).model.backbone == published


def test_the_last_weights_travel_with_their_own_numbers(trained, tmp_path):
    run, folders = tmp_path / "run", [tmp_path / "a", tmp_path / "b"]
    shutil.copytree(trained, run)
    (run / "result.json").write_text(json.dumps({"steps": 50, "best_step": 40, "AP": 0.51, "threshold": 0.31}))
    lines = ["", json.dumps({"step": 50, "AP": 0.4, "recommended_threshold": 0.2})]
    for folder, line in zip(folders, lines, strict=True):
        folder.mkdir()
        (run / "metrics.jsonl").write_text(line)
        write_published(folder, read_run(run), NAME, "mit", "last")
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert results == [{"steps": 50}, {"steps": 50, "AP": 0.4, "threshold": 0.2}]


@pytest.mark.parametrize(
    ("weights", "published"),
    [
        ("imagenet", "imagenet"),
        ("none", "none"),
        ("/data/weights/resnet50-0676ba61.pth", "imagenet"),
        ("C:\\Users\\someone\\own.pth", "own.pth"),
        ("../own.safetensors", "own.safetensors"),
    ],
)
def test_of_a_weight_file_the_name_is_left(weights, published):
    changed = publishable(config(**{"model.weights": weights}))
    assert changed.model.weights == published
    assert changed == config(**{"model.weights": published, "data.workers": changed.data.workers})


def test_the_card_tells_what_the_run_knows(hub, trained):
    push(trained, NAME, license="cc-by-4.0")
    card = hub.files(NAME)["README.md"].decode()
    front = front_matter(card)
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "foveal"
    assert front["pipeline_tag"] == "object-detection"
    [result] = front["model-index"][0]["results"]
    assert result["dataset"] == {"name": "cells", "type": "cells", "split": "val"}
    metrics = {one["type"]: one["value"] for one in result["metrics"]}
    assert metrics == {"ap": 0.51, "ap50": 0.745, "recommended_f1": 0.7}
    for line in (
        "# cells",
        "Licence: cc-by-4.0.",
        'detector = foveal.load("hf://alice/cells")',
        "It finds 2 classes: `cat`, `dog`.",
        "| training data | `cells` |",
        "| pictures, boxes | 690, 11,013 |",
        "| steps | 40 |",
        "| score to show from | 0.31, found on the validation split |",
        "on the validation split `val` (100 pictures)",
        "| AP at IoU .5 | 74.5 |",
    ):
        assert line in card


def test_without_a_licence_the_card_says_unknown(hub, trained):
    push(trained, NAME)
    card = hub.files(NAME)["README.md"].decode()
    assert front_matter(card)["license"] == "unknown"
    assert "It is not known under which licence." in card


def test_the_card_of_an_imported_run_names_its_source_and_no_numbers(hub, trained, tmp_path):
    run = tmp_path / "imported"
    run.mkdir()
    for file in ("config.yaml", "classes.json", "last.safetensors"):
        (run / file).write_bytes((trained / file).read_bytes())
    (run / "import.json").write_text(json.dumps({"source": "torchvision", "file": "a.pth", "notes": ["x"]}))
    push(run, NAME)
    assert set(hub.files(NAME)) == {"README.md", "last.safetensors", "classes.json", "config.yaml"}
    card = hub.files(NAME)["README.md"].decode()
    assert "imported into Foveal from torchvision (`a.pth`)" in card
    assert "Evaluation" not in card
    assert "model-index" not in front_matter(card)
    assert foveal.load(f"hf://{NAME}").class_names == CLASSES


def test_a_second_push_leaves_nothing_of_the_first(hub, trained):
    push(trained, NAME)
    push(trained, NAME, which="last")
    assert set(hub.files(NAME)) == FILES - {"best.safetensors"} | {"last.safetensors"}
    assert json.loads(hub.files(NAME)["evaluation.json"])["AP"] == 0.5
    assert foveal.load(f"hf://{NAME}").class_names == CLASSES


def test_class_names_cannot_break_the_card(hub, trained, tmp_path):
    run = tmp_path / "odd"
    run.mkdir()
    for file in ("config.yaml", "best.safetensors"):
        (run / file).write_bytes((trained / file).read_bytes())
    names = ["a`b|c # d", "<script>x</script>"]
    (run / "classes.json").write_text(json.dumps([{"id": i, "name": name} for i, name in enumerate(names)]))
    push(run, NAME)
    card = hub.files(NAME)["README.md"].decode()
    assert "`a'b/c # d`, `(script)x(/script)`" in card
    assert re.findall(r"^#+ .*", card, re.M) == ["# cells"]
    assert foveal.load(f"hf://{NAME}").class_names == tuple(names)
    (run / "classes.json").write_text(json.dumps([{"id": 0, "name": "a\n\x1b[2J"}, {"id": 1, "name": "b"}]))
    with pytest.raises(UsageError, match=r"a class is called 'a\\n\\x1b\[2J', and on the hub"):
        push(run, NAME)


def test_a_private_repository_is_made_and_a_public_one_is_not_filled(hub, trained):
    push(trained, NAME, private=True)
    assert hub.repositories[NAME].private
    push(trained, "alice/open")
    before = hub.files("alice/open")
    with pytest.raises(HubError, match="hf://alice/open: can be seen by everybody already"):
        push(trained, "alice/open", private=True)
    assert hub.files("alice/open") == before


def test_without_a_token_nothing_is_tried(hub, trained, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="no token to write to the hub with: log in with `hf auth login`, or set"):
        push(trained, NAME)
    assert hub.requests == []


@pytest.mark.parametrize("token", [READ_ONLY, "hf_stale"])
def test_a_token_without_the_right_is_refused_in_one_sentence(hub, trained, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=f"^hf://{NAME}: the hub refuses your token .*hf auth login") as refused:
        push(trained, NAME)
    assert "\n" not in str(refused.value)
    assert NAME not in hub.repositories


def test_a_licence_that_the_hub_does_not_know_is_told(hub, trained):
    with pytest.raises(HubError, match=r'the hub refused \(.*"license" must be one of'):
        push(trained, NAME, license="MIT")


@pytest.mark.parametrize("name", ["cells", "alice/", "alice/a b", "alice/../x", "hf://alice/cells", "a/b/c", "a/x--y"])
def test_what_is_no_repositorys_name_is_misuse(hub, trained, name):
    with pytest.raises(UsageError, match="no repository's name: write owner/name"):
        push(trained, name)


@pytest.mark.parametrize("license", ["x\ny: z", "", "mit license", "mit\n"])
def test_what_is_no_licences_name_is_misuse(hub, trained, license):
    with pytest.raises(UsageError, match="is no licence's name on the hub: write one such as apache"):
        push(trained, NAME, license=license)
    assert hub.requests == []


def test_what_is_no_run_is_misuse(hub, tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        push(tmp_path, NAME)
    with pytest.raises(UsageError, match="is on the hub already"):
        push("hf://alice/cells", NAME)
    with pytest.raises(UsageError, match=r"^hf://alice/cells: is on the hub already"):
        push(Path("hf://alice/cells"), NAME)
    assert hub.requests == []


def test_weights_are_written_afresh_so_that_nothing_hides_beside_them(hub, trained, tmp_path):
    push(trained, NAME)
    (tmp_path / "w.safetensors").write_bytes(hub.files(NAME)["best.safetensors"])
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata() in (None, {})
        assert set(file.keys()) == set(run_weights(read_run(trained).path))
