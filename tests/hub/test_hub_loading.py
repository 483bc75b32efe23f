import itertools
import json
import shutil
import socket
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_in import Repository
from tiny_run import CLASSES

import foveal
from foveal.config import load_config
from foveal.engine.checkpoint import read_run
from foveal.errors import CheckpointError, HubError, UsageError, WeightsError
from foveal.hub.addresses import Address, address_of
from foveal.hub.fetching import _note_commit
from foveal.hub.pushing import push, write_published

# huggingface_hub's own, when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "alice/cells"
HERE = f"hf://{NAME}"


@pytest.fixture(scope="module")
def published_files(trained, tmp_path_factory):
    """What a push of the run writes."""
    folder = tmp_path_factory.mktemp("published")
    write_published(folder, read_run(trained), NAME, "mit", "best")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def pushed(hub, published_files):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit(published_files)
    return hub


def change(hub, **files: bytes | str | None) -> None:
    """Puts other contents into files of the repository; None removes one. `config_yaml` stands for config.yaml."""
    kept = dict(hub.files(NAME))
    for name, content in files.items():
        path = name.replace("_", ".")
        if content is None:
            del kept[path]
        else:
            kept[path] = content.encode() if isinstance(content, str) else content
    hub.repositories[NAME].commit(kept)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://alice/cells", Address("alice/cells")),
        ("hf:/alice/cells", Address("alice/cells")),
        (Path("hf://alice/cells@v1.0"), Address("alice/cells", "v1.0")),
        ("runs/cells", None),
        ("alice/cells", None),
    ],
)
def test_addresses_are_told_from_paths(text, address):
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["hf://cells", "hf://", "hf://a/b/c", "hf://a/b@", "hf://../b"])
def test_half_an_address_is_misuse(text):
    with pytest.raises(UsageError, match="write"):
        address_of(text)


def test_of_a_repository_only_the_run_is_fetched(pushed):
    change(pushed, picture_jpg=b"x" * 1000, weights_pkl=b"x")
    foveal.load(HERE)
    fetched = {line.rsplit("/", 1)[1] for line in pushed.requests if line.startswith("GET") and "/resolve/" in line}
    assert fetched == {"config.yaml", "classes.json", "result.json", "best.safetensors"}


def test_a_second_load_fetches_nothing_again_and_a_new_push_is_seen(pushed, trained):
    foveal.load(HERE)
    pushed.requests.clear()
    foveal.load(HERE)
    assert not any("/resolve/" in line and line.startswith("GET") for line in pushed.requests)
    change(pushed, result_json='{"threshold": 0.9}')
    assert foveal.load(HERE).threshold == 0.9


def test_a_revision_is_loaded_by_branch_and_by_commit(pushed):
    first = pushed.repositories[NAME].branches["main"]
    files = {**pushed.files(NAME), "result.json": b'{"threshold": 0.7}'}
    pushed.repositories[NAME].commit(files, branch="v2")
    assert foveal.load(f"{HERE}@v2").threshold == 0.7
    assert foveal.load(f"{HERE}@{first}").threshold == 0.31
    with pytest.raises(HubError, match=f"{HERE}@v3: the repository has no revision 'v3'"):
        foveal.load(f"{HERE}@v3")


def test_a_push_in_the_midst_of_a_fetch_does_not_mix_two_runs(pushed):
    pushed.after_listing.append(lambda: change(pushed, result_json='{"threshold": 0.9}'))
    assert foveal.load(HERE).threshold == 0.31
    assert not pushed.after_listing
    assert foveal.load(HERE).threshold == 0.9


def test_a_file_that_has_grown_since_it_was_looked_at_is_not_fetched(pushed):
    pushed.after_listing.append(lambda: change(pushed, result_json='{"threshold": 0.9}' + " " * 2**20))
    assert foveal.load(HERE).threshold == 0.31
    with pytest.raises(WeightsError, match=r"result\.json has .* bytes, more than any run's"):
        foveal.load(HERE)


def test_a_run_on_the_hub_is_a_run_wherever_one_is_asked_for(pushed):
    info = read_run(Path(HERE))
    assert info.class_names == CLASSES
    assert info.config.model.weights == "own-net.pth"


def test_out_of_reach_what_was_fetched_before_is_loaded(pushed, monkeypatch):
    expected = foveal.load(HERE).threshold
    pushed.down = True
    assert foveal.load(HERE).threshold == expected
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert foveal.load(HERE).threshold == expected


def test_a_note_of_the_branch_that_cannot_be_read_stops_no_fetch(tmp_path, monkeypatch):
    folder = tmp_path / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (tmp_path / "refs").mkdir()
    note = tmp_path / "refs" / "main"
    note.write_bytes(b"\xff\xfe")
    _note_commit(folder, address_of(HERE))
    assert note.read_text() == "abc"
    note.write_text("another")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    _note_commit(folder, address_of(HERE))


def test_out_of_reach_and_never_fetched_is_one_sentence(hub, monkeypatch):
    hub.repositories[NAME] = Repository()
    hub.down = True
    with pytest.raises(HubError, match=f"^{HERE}: the hub cannot be reached .*; check the network and try again"):
        foveal.load(HERE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(HubError, match=f"^{HERE}: the hub cannot be reached .*refused") as refused:
            foveal.load(HERE)
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=f"^{HERE}: HF_HUB_OFFLINE is set, so the hub is not asked"):
        foveal.load(HERE)


def test_what_is_not_there_or_not_ones_own_is_one_sentence(hub, trained, monkeypatch):
    with pytest.raises(HubError, match=r"^hf://bob/none: there is no such model repository, or it is private"):
        foveal.load("hf://bob/none")
    push(trained, NAME, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=f"^{HERE}: there is no such model repository, or it is private"):
        foveal.load(HERE)
    hub.repositories[NAME].private, hub.repositories[NAME].gated = False, True
    with pytest.raises(HubError, match=f"^{HERE}: its owner gives it only to those who asked"):
        foveal.load(HERE)


def test_a_repository_of_something_else_holds_no_run(hub):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit({"config.json": b"{}", "model.safetensors": b"x", "pytorch_model.bin": b"x"})
    with pytest.raises(CheckpointError, match=f"^{HERE}: holds no run of Foveal: it has no config.yaml, classes.json"):
        foveal.load(HERE)
    hub.repositories[NAME].commit({"config.yaml": b"", "classes.json": b"[]", "best.pth": b"x"})
    with pytest.raises(CheckpointError, match=r"it has no best\.safetensors or last\.safetensors"):
        foveal.load(HERE)
    assert not any("/resolve/" in line for line in hub.requests)


@pytest.mark.parametrize(("file", "claimed"), [("best.safetensors", 2**40), ("config.yaml", 2**21)])
def test_what_is_larger_than_any_run_is_not_fetched(pushed, file, claimed):
    pushed.claimed[file] = claimed
    with pytest.raises(WeightsError, match=f"{file} has {claimed:,} bytes, more than any run"):
        foveal.load(HERE)
    assert not any("/resolve/" in line for line in pushed.requests)


def settings(hub, **changes: object) -> str:
    """The repository's config.yaml with other settings; `model__levels` stands for model.levels."""
    path = Path(huggingface_hub.constants.HF_HUB_CACHE).parent / "config.yaml"
    path.write_bytes(hub.files(NAME)["config.yaml"])
    return load_config(path).with_changes({name.replace("__", "."): value for name, value in changes.items()}).to_yaml()


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        (
            {"model__pyramid_channels": 2**40},
            WeightsError,
            "does not fit its config.yaml, a RetinaNet with mobi",
        ),
        ({"model__pyramid_channels": 2**62}, WeightsError, "does not fit its config.yaml"),
        ({"model__head_depth": 10**12}, WeightsError, "does not fit its config.yaml"),
        ({"model__backbone": "resnet152"}, WeightsError, "a RetinaNet with resnet152"),
        ({"anchors__scales": (1.0,) * 50}, WeightsError, "of another shape, such as class_head.predict.weight"),
        ({"data__size": 10**9}, CheckpointError, "data.size is 1000000000, more than the 8192"),
        ({"data__size": 8000, "data__max_size": 0}, CheckpointError, "data.longest is 13333, more than the 8192"),
        ({"data__max_pixels": 10**12}, CheckpointError, "data.max_pixels"),
        ({"data__pad_multiple": 10**9}, CheckpointError, "data.pad_multiple"),
        (
            {"model__backbone": "hf:/etc", "model__weights": "imagenet"},
            CheckpointError,
            "its backbone is one of transformers .hf:/etc., which is not",
        ),
    ],
)
def test_a_config_that_asks_for_more_than_the_weights_have_is_refused(pushed, changes, kind, said):
    change(pushed, config_yaml=settings(pushed, **changes))
    with pytest.raises(kind, match=f"^{HERE}: .*{said}"):
        foveal.load(HERE)


LETTERS = "abcdefghij"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(LETTERS)
)
TENSOR_OF_4_TIB = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config_yaml": BOMB}, "config.yaml is not read: it refers to its own parts"),
        ({"config_yaml": "[" * 5000}, "config.yaml is not read: it is longer, or has more brackets"),
        ({"config_yaml": "- " * 5000}, "config.yaml is not read"),
        ({"config_yaml": "!!python/object/apply:os.system ['true']"}, "config.yaml is not read"),
        ({"config_yaml": "inference: {max_detections: 2001-13-45}"}, "config.yaml is not read: .*month must be in"),
        ({"config_yaml": "inference: {max_detections: %s}" % ("9" * 5000)}, "config.yaml is not read: .*digits"),
        ({"config_yaml": "inference: {max_detections: %s}" % ("9" * 4000)}, "inference.max_detections is 9999"),
        ({"config_yaml": '{"\\e[2J": 1}'}, r"config.yaml is not read: .*\\x1b"),
        ({"config_yaml": "model: {backbon: x}"}, "there is no such setting; did you mean model.backbone"),
        ({"config_yaml": b"\xff\xfe"}, "config.yaml is not read"),
        ({"classes_json": "[" * 100_000}, "classes.json is not read"),
        ({"classes_json": '[{"id": 1}]'}, "classes.json is not read: .*name"),
        ({"classes_json": "[]"}, "names no class"),
        ({"classes_json": '[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]'}, "names no class, or one twice"),
        ({"classes_json": '[{"id": 1, "name": "a\\n\\u001b[2J"}]'}, "classes.json: class 0 is called .a.n.x1b"),
        ({"classes_json": '[{"id": 1, "name": ""}]'}, "classes.json: class 0 is called ''"),
        ({"classes_json": json.dumps([{"id": 1, "name": "a" * 201}])}, "has 1 to 200 characters"),
        ({"result_json": '{"threshold": 7}'}, "result.json is not read"),
        ({"result_json": "[]"}, "result.json is not read"),
    ],
)
def test_descriptions_of_strangers_are_refused_in_one_sentence(pushed, files, said):
    change(pushed, **files)
    with pytest.raises(CheckpointError, match=f"^{HERE}: .*{said}") as refused:
        foveal.load(HERE)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def tensors(hub, tmp_path: Path) -> dict[str, torch.Tensor]:
    (tmp_path / "w.safetensors").write_bytes(hub.files(NAME)["best.safetensors"])
    return load_file(tmp_path / "w.safetensors")


def put(hub, tmp_path: Path, changed: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, tmp_path / "w.safetensors")
    change(hub, **{"best_safetensors": (tmp_path / "w.safetensors").read_bytes()})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("box_head.predict.bias"), "1 tensor missing, 0 unknown"),
        (lambda t: t.update(more=torch.zeros(3)), "0 tensors missing, 1 unknown, .*such as more"),
        (lambda t: t.update({"\x1b[2J": torch.zeros(3)}), r"such as \\x1b"),
        (lambda t: t.update({"box_head.predict.bias": torch.zeros(3)}), "1 of another shape"),
        (lambda t: t["box_head.predict.bias"].fill_(float("nan")), "holds what is no finite number"),
        (lambda t: t.update({"box_head.predict.bias": torch.zeros(36, dtype=torch.int64)}), "is of torch.int64"),
    ],
)
def test_weights_that_do_not_fit_are_refused(pushed, tmp_path, spoil, said):
    changed = tensors(pushed, tmp_path)
    spoil(changed)
    put(pushed, tmp_path, changed)
    with pytest.raises(WeightsError, match=f"^{HERE}: best.safetensors.*{said}"):
        foveal.load(HERE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02cos\nsystem\n(S'true'\ntR.",
        (2**60).to_bytes(8, "little") + b"{}",
        len(TENSOR_OF_4_TIB).to_bytes(8, "little") + TENSOR_OF_4_TIB,
    ],
    ids=["empty", "pickle", "header of 2^60 bytes", "tensor of 4 TiB"],
)
def test_weights_that_are_no_safetensors_are_refused(pushed, content):
    change(pushed, best_safetensors=content)
    with pytest.raises(WeightsError, match=f"^{HERE}: best.safetensors cannot be read as safetensors"):
        foveal.load(HERE)


def test_weights_that_are_cut_off_are_refused(pushed):
    change(pushed, best_safetensors=pushed.files(NAME)["best.safetensors"][:-100])
    with pytest.raises(WeightsError, match="it may be cut off"):
        foveal.load(HERE)


def test_without_huggingface_hub_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r'huggingface_hub is not installed: pip install "foveal\[hub\]"'):
        foveal.load(HERE)


def test_a_folder_called_like_an_address_is_a_folder(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "hf:" / "alice" / "cells")
    assert foveal.load("hf:/alice/cells").class_names == CLASSES
