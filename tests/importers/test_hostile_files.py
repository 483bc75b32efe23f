"""Files from strangers: each is refused in one sentence, runs nothing, fills nothing, and leaves no run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from their_names import exported, small_model, write_names
from torch import Tensor

from foveal.cli import main
from foveal.errors import FovealError, UsageError, WeightsError
from foveal.hub.strangers import check_run
from foveal.importers.array_pickle import RefusedPickleError, read_array_pickle
from foveal.importers.importing import import_run


def refused(file: Path, **options: Any) -> str:
    """What is said of the file; it must be one line, and there must be no run."""
    out = file.parent / "run"
    with pytest.raises(FovealError) as caught:
        import_run(file, out, **options)
    said = str(caught.value)
    assert said.startswith(str(file)) or "names" in options
    assert "\n" not in said
    assert len(said) < 700
    assert not out.exists()
    return said


def torch_file(folder: Path, content: object) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def pickle_file(folder: Path, data: bytes) -> Path:
    (folder / "weights.pkl").write_bytes(data)
    return folder / "weights.pkl"


@pytest.fixture(scope="module")
def good() -> dict[str, Tensor]:
    """A state dict that would be imported."""
    return exported("torchvision", small_model(p6_from="P5"))


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle", "pickle in arrays"])
def test_code_is_not_run(kind, tmp_path):
    bad = {"a": Hostile(tmp_path / "ran")}
    if "torch" in kind:
        torch.save(bad, tmp_path / "weights.pth", _use_new_zipfile_serialization=kind == "torch")
        said = refused(tmp_path / "weights.pth")
    else:
        array = np.array([Hostile(tmp_path / "ran")], dtype=object)
        said = refused(pickle_file(tmp_path, pickle.dumps(bad if kind == "pickle" else {"a": array})))
    assert "is not opened" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["builtins\neval", "os\nsystem", "numpy\nload", "numpy.core.multiarray\n_reconstruct.x"]
)
def test_a_pickle_can_name_nothing_but_arrays(name):
    with pytest.raises(RefusedPickleError, match=r"wants .* called and is not opened"):
        read_array_pickle(b"\x80\x02c" + name.encode() + b"\n(U\x01ltR.")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps({("a", "b"): 1}), "keys that are not names"),
        (pickle.dumps({"a": {1, 2}}), "more than plain arrays"),
        (pickle.dumps({"a": np.array(["text"])}), "something other than numbers"),
        (pickle.dumps([1, 2]), "holds no dictionary"),
        (pickle.dumps({"a": np.zeros(4)})[:-20], "is damaged or cut off"),
        (b"\x80\x04}X\xff\xff\xff\x7fabc", "is damaged or cut off"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc", "is damaged or cut off"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", ""),
    ],
    ids=["tuple key", "set", "text array", "list", "cut off", "long text", "endless bytes", "far memo"],
)
def test_a_pickle_of_anything_else_is_refused_at_no_cost(data, said):
    tracemalloc.start()
    try:
        if said:
            with pytest.raises(RefusedPickleError, match=said):
                read_array_pickle(data)
        else:  # a place far away in the memo is a number, not an allocation
            assert read_array_pickle(data) == {}
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_an_array_larger_than_its_bytes_is_refused():
    data = pickle.dumps({"a": np.zeros((3, 7))}, protocol=2)
    shape = b"K\x03K\x07\x86"
    assert data.count(shape) == 1
    with pytest.raises(RefusedPickleError, match="an array's shape does not fit its bytes"):
        read_array_pickle(data.replace(shape, b"J\xff\xff\xff\x7fK\x07\x86"))


def test_a_pickle_that_unrolls_its_bytes_again_and_again_is_refused():
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x00"
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    data = b"\x80\x02}X\x01\x00\x00\x00k](" + text + again * 50 + b"es."
    with pytest.raises(RefusedPickleError, match="made to fill the memory"):
        read_array_pickle(data)


def test_nested_tuples_without_end_cost_nothing():
    """Forty tuples, each of the one before, twice: printing or hashing them takes a trillion steps."""
    bomb = b"\x80\x02}(X\x01\x00\x00\x00k)" + b"".join(
        b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(40)
    )
    assert list(read_array_pickle(bomb + b"u.")) == ["k"]
    with pytest.raises(RefusedPickleError, match="keys"):
        read_array_pickle(bomb.replace(b"(X\x01\x00\x00\x00k)", b"()") + b"K\x01u.")


@pytest.mark.parametrize("shape", ["shared", "in itself"])
def test_dictionaries_of_dictionaries_of_dictionaries_are_refused(shape, tmp_path):
    """Forty levels that each hold the one before twice are a trillion; one that holds itself has no end."""
    shared: dict[str, Any] = {}
    for _ in range(40):
        shared = {"a": shared, "b": shared}
    data = pickle.dumps(shared) if shape == "shared" else b"\x80\x02}q\x00X\x01\x00\x00\x00kh\x00s."
    assert "holds dictionaries in the dictionaries" in refused(pickle_file(tmp_path, data))


def test_a_pickle_of_very_many_values_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("foveal.importers.array_pickle.MAX_STEPS", 1000)
    with pytest.raises(RefusedPickleError, match="takes more steps"):
        read_array_pickle(b"\x80\x02](" + b"}" * 2000 + b"e.")


def zipped(folder: Path, structure: bytes, name: str = "data.pkl") -> Path:
    """A file as torch.save would write it around this pickle."""
    with zipfile.ZipFile(folder / "weights.pth", "w") as archive:
        archive.writestr(f"archive/{name}", structure)
        archive.writestr("archive/version", "3\n")
    return folder / "weights.pth"


_BIG = b"J\x00\x00\x00\x20"  # 2^29


@pytest.mark.parametrize(
    "called",
    [
        b"c__builtin__\nbytearray\n" + _BIG + b"\x85R",
        b"cbuiltins\nbytearray\n" + _BIG + b"\x85R",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8tR",
        b"ctorch\nFloatStorage\n" + _BIG + b"\x85R",
        b"ctorch.storage\nUntypedStorage\n" + _BIG + b"\x85R",
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R",
        b"ccollections\nOrderedDict\n]\x85R",
        b"ccollections\nOrderedDict\n)\x81",
        b"ccollections\nCounter\n]\x85R",
    ],
)
@pytest.mark.parametrize("name", ["data.pkl", "DATA.PKL"])
def test_torchs_reader_is_not_asked_for_what_no_state_dict_needs(called, name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was handed to torch"))
    assert "holds more than tensors" in refused(zipped(tmp_path, b"\x80\x02}X\x01\x00\x00\x00k" + called + b"s.", name))


def test_torchs_files_may_not_hash_nested_tuples_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was handed to torch"))
    bomb = b"\x80\x02})" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(40)) + b"K\x01s."
    assert "keys that are not names" in refused(zipped(tmp_path, bomb))


def test_torchs_files_may_not_copy_one_value_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.model.torch_pickle.MAX_STEPS", 10_000)
    many = b"(" + b"".join(b"X\x04\x00\x00\x00%04d" % n + b"N" for n in range(1000)) + b"u"
    again = b"ccollections\nOrderedDict\n)Rh\x00b" * 50
    file = zipped(tmp_path, b"\x80\x02](}q\x00" + many + again + b"e.")
    assert "takes more steps" in refused(file)


def test_torchs_files_may_not_take_steps_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.model.torch_pickle.MAX_STEPS", 1000)
    assert "takes more steps" in refused(zipped(tmp_path, b"\x80\x02](" + b"}" * 2000 + b"e."))


def old_torch_file(folder: Path, content: object) -> Path:
    torch.save(content, folder / "weights.pth", _use_new_zipfile_serialization=False)
    return folder / "weights.pth"


def test_old_torch_files_are_walked_as_new_ones_are(tmp_path, good):
    assert "bytes beside its tensors" in refused(old_torch_file(tmp_path, {"a": "x" * 17_000_000}))
    assert "holds more than tensors" in refused(old_torch_file(tmp_path, {"a": bytearray(5)}))
    file = old_torch_file(tmp_path, {"a": torch.zeros(3)})
    file.write_bytes(file.read_bytes().replace(b"K\x03N", b"J\x00\x00\x00\x7fN"))
    assert "claims" in refused(file)
    assert import_run(
        old_torch_file(tmp_path, good), tmp_path / "run", names=write_names(tmp_path, "a", "b")
    ).class_names


def test_what_training_keeps_beside_a_state_dict_is_read(tmp_path, good):
    """Parameters, an optimiser's state, a schedule's Counter, dtypes and devices run no code and are let through."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [1, 2]).state_dict()
    beside = {"optimizer": optimiser.state_dict(), "milestones": schedule["milestones"], "parameter": weight}
    beside |= {"dtype": torch.float16, "device": torch.device("cpu"), "shape": torch.Size([1, 2])}
    file = torch_file(tmp_path, {"model": good, "epoch": 3, "best": 0.5, **beside})
    assert import_run(file, tmp_path / "run", names=write_names(tmp_path, "a", "b")).class_names == ("a", "b")


def test_a_checkpoint_with_much_beside_its_tensors_is_refused(tmp_path):
    assert "bytes beside its tensors" in refused(torch_file(tmp_path, {"a": "x" * 17_000_000}))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2_000_000)}, buffer)
    with zipfile.ZipFile(buffer) as stored, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 50_000
    assert "would unpack to 8,0" in refused(tmp_path / "bomb.pth")


def test_tensors_that_repeat_a_few_bytes_for_ever_are_refused(tmp_path):
    file = torch_file(tmp_path, {"backbone.body.conv1.weight": torch.zeros(1).expand(10**10)})
    assert "its tensors claim 40,000,000,000 bytes and the file has" in refused(file)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("ending", ["pth", "pkl", "safetensors"])
def test_a_file_that_was_cut_off_says_so(share, ending, tmp_path, good):
    file = tmp_path / f"cut.{ending}"
    weights = {name: tensor for name, tensor in good.items() if tensor.numel() < 10_000}
    if ending == "pth":
        torch.save(weights, file)
    elif ending == "pkl":
        file.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in weights.items()}))
    else:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert "fetch it again" in refused(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)},
            "are named as in no RetinaNet of torchvision",
        ),
        ({"model": "resnet50", "epoch": 3}, "holds no state dict"),
        ([torch.zeros(3)], "holds no state dict"),
        ({}, "holds no state dict"),
        ({3: torch.zeros(3)}, "holds no state dict"),
        ({str(n): torch.zeros(1) for n in range(10_001)}, "10,001 tensors, more than any RetinaNet"),
        ({"a": torch.zeros(3).to_sparse()}, "holds more than tensors"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "is no plain tensor"),
    ],
    ids=["another network", "no weights", "list", "empty", "numbered", "many", "sparse", "complex"],
)
def test_what_is_no_retinanet_is_refused(content, said, tmp_path):
    assert said in refused(torch_file(tmp_path, content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"roi_heads.box_head.fc6.weight": torch.zeros(2)}, r"1 of \d+ tensors have no place in it, such as roi_heads"),
        (
            {"backbone.body.layer2.0.bn1.weight": None},
            "1 tensor missing, 0 unknown, 0 of another shape, such as backbone",
        ),
        ({"backbone.body.conv1.weight": torch.zeros(64, 1, 7, 7)}, "1 of another shape, such as backbone.conv1.weight"),
        ({"backbone.body.layer3.7.conv1.weight": torch.zeros(1)}, "of no RetinaNet with a ResNet"),
        ({"backbone.fpn.inner_blocks.2.0.weight": None}, "pyramid.lateral.5.weight is missing"),
        ({"backbone.fpn.inner_blocks.2.0.weight": torch.zeros(())}, "of no RetinaNet with a ResNet"),
        ({"head.regression_head.bbox_reg.bias": torch.zeros(60)}, "which is not 9 anchors"),
        ({"head.classification_head.cls_logits.bias": torch.zeros(19)}, "which is not 9 anchors"),
        ({"head.classification_head.cls_logits.bias": torch.full((18,), torch.nan)}, "no finite number"),
        (
            {"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int32)},
            r"backbone\.conv1\.weight is of torch\.int32, and weights are floats",
        ),
    ],
    ids=["unknown", "missing", "shape", "blocks", "no lateral", "scalar", "anchors", "classes", "nan", "whole numbers"],
)
def test_what_does_not_fit_is_named(change, said, tmp_path, good):
    weights = {name: tensor for name, tensor in {**good, **change}.items() if tensor is not None}
    file = torch_file(tmp_path, weights)
    with pytest.raises(WeightsError, match=said):
        import_run(file, tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert not (tmp_path / "run").exists()


def test_names_of_tensors_reach_no_terminal_as_they_are(tmp_path, good):
    names = write_names(tmp_path, "cat", "dog")
    evil = "a\n\x1b[2J" + "b" * 100_000
    said = [
        refused(torch_file(tmp_path, {evil: torch.zeros(1)})),
        refused(torch_file(tmp_path, {**good, evil: torch.zeros(1)})),
        refused(torch_file(tmp_path, {**good, f"backbone.body.{evil}": torch.zeros(1)}), names=names),
        refused(torch_file(tmp_path, {evil: torch.zeros(1, dtype=torch.complex64)})),
        refused(pickle_file(tmp_path, b"\x80\x02cos\n\x1b[2J\n(U\x01ltR.")),
        refused(zipped(tmp_path, b"\x80\x02cos\n\x1b[2J\n(U\x01ltR.")),
    ]
    assert [one for one in said if not one.isprintable() or "\\x1b" not in one] == []


@pytest.mark.parametrize("name", ["a\n\x1b[2J", "a" * 100_000, ""])
def test_classes_that_are_called_so_are_refused(name, tmp_path, good):
    weights = exported("mmdetection", small_model(p6_from="C5_linear"))
    file = torch_file(tmp_path, {"state_dict": weights, "meta": {"CLASSES": ("cat", name)}})
    said = refused(file)
    assert "a name has 1 to 200 characters" in said
    assert said.isprintable()
    assert "--names FILE" in said


def test_a_list_of_names_is_held_to_the_same(tmp_path, good):
    said = refused(torch_file(tmp_path, good), names=write_names(tmp_path, "cat", "\x1b[2Jdog"))
    assert "line 2 is '\\x1b[2Jdog'" in said


def test_a_directory_of_very_many_entries_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.model.torch_files.MAX_DIRECTORY_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        for number in range(300):
            archive.writestr(f"archive/{number}", "")
    assert "its directory has 16," in refused(tmp_path / "weights.pth")


def test_a_torchscript_file_is_called_so(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that TorchScript is of yesterday
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    said = refused(tmp_path / "net.pt")
    assert "is a TorchScript program" in said
    assert "torch.save(torch.jit.load(FILE).state_dict(), NEW)" in said


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_of_an_old_protocol_is_called_so(protocol, tmp_path):
    said = refused(pickle_file(tmp_path, pickle.dumps({"model": {"a": np.zeros(3)}}, protocol)))
    assert "a pickle of protocol 0 or 1" in said


@pytest.mark.parametrize("url", ["https://example.com/a.pth", "hf://alice/cells", "file:///a.pth"])
def test_an_address_in_place_of_a_file_is_not_fetched(url, tmp_path, capsys):
    assert main(["import", url, "--out", str(tmp_path / "run")]) == 2
    assert f"foveal: {url}: is an address, and nothing is fetched" in capsys.readouterr().err
    with pytest.raises(UsageError, match=url):
        import_run(url, tmp_path / "run")


def test_whole_numbers_become_floats(tmp_path, good):
    weights = {name: tensor.round().long() if "lateral" in name else tensor for name, tensor in good.items()}
    run = import_run(torch_file(tmp_path, weights), tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    kinds = {name: tensor.dtype for name, tensor in load_file(run.path / "last.safetensors").items()}
    assert {kind for name, kind in kinds.items() if "num_batches" not in name} == {torch.float32}
    check_run(run.path, "run")  # as of the hub


def test_what_lies_beside_the_new_run_is_left_alone(tmp_path, good):
    (tmp_path / ".run.part").mkdir()
    (tmp_path / ".run.part" / "mine.txt").write_text("keep")
    import_run(torch_file(tmp_path, good), tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert (tmp_path / ".run.part" / "mine.txt").read_text() == "keep"
    assert (tmp_path / "run").stat().st_mode & 0o777 == (tmp_path / ".run.part").stat().st_mode & 0o777


def test_where_a_run_cannot_be_written_nothing_is_left(tmp_path, good):
    """A limit on the size of files stands for a full disk."""
    program = (
        "import resource, signal, sys; from foveal.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.exit(main(sys.argv[1:]))"
    )
    names = write_names(tmp_path, "cat", "dog")
    words = ["import", str(torch_file(tmp_path, good)), "--out", str(tmp_path / "run"), "--names", str(names)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{tmp_path / 'run'}: cannot be written" in done.stderr
    assert "should not happen" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"weights.pth", "names.txt"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("page.pth", b"<!DOCTYPE html>404"), ("empty.pth", b""), ("page.safetensors", b"<!DOCTYPE html>")],
)
def test_a_page_in_place_of_weights_is_no_weight_file(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert "fetch it again" in refused(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    assert "there is no such weight file" in refused(tmp_path / "nowhere.pth")


def test_the_length_that_safetensors_starts_with_is_not_taken_for_a_pickle(tmp_path):
    for letters in range(200):
        save_file({"a" * (letters + 1): torch.zeros(1)}, tmp_path / "weights.safetensors")
        if (tmp_path / "weights.safetensors").read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header began with the byte of a pickle")
    assert "are named as in no RetinaNet" in refused(tmp_path / "weights.safetensors")


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["cat"], "has 1 line, 0 of them empty, for 2 outputs"),
        (["cat", ""], "has 2 lines, 1 of them empty, for 2 outputs"),
        (["cat", "cat"], "names cat twice"),
        (["-", "-"], "names no class at all"),
    ],
)
def test_names_that_do_not_fit_are_refused(lines, said, tmp_path, good):
    assert said in refused(torch_file(tmp_path, good), names=write_names(tmp_path, *lines))


def test_without_names_the_message_says_how_to_give_them(tmp_path, good):
    said = refused(torch_file(tmp_path, good))
    assert "does not name its 2 classes; give --names FILE" in said


def test_an_output_that_is_no_class_is_dropped(tmp_path, good):
    run = import_run(torch_file(tmp_path, good), tmp_path / "run", names=write_names(tmp_path, "-", "dog"))
    assert (run.class_names, run.category_ids) == (("dog",), (1,))


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, good):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="is there already; choose another --out"):
        import_run(torch_file(tmp_path, good), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_the_command_answers_2_to_misuse_and_1_to_bad_files(tmp_path, good, capsys):
    file, out = str(torch_file(tmp_path, good)), str(tmp_path / "run")
    assert main(["import", file, "--out", out]) == 2
    assert "--names FILE" in capsys.readouterr().err
    assert main(["import", file, "--out", out, "--from", "yhenon"]) == 1
    assert "is no RetinaNet of yhenon/pytorch-retinanet" in capsys.readouterr().err
    assert main(["import", file, "--out", out, "--from", "keras"]) == 2


# -- Keras -------------------------------------------------------------------------------------------------------------


def test_without_h5py_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "snapshot.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert 'pip install "foveal[keras]"' in refused(tmp_path / "snapshot.h5")


def test_a_keras_file_is_read_and_its_optimiser_is_not(tmp_path):
    h5py = pytest.importorskip("h5py")
    from foveal.importers.weight_files import read_weight_file

    with h5py.File(tmp_path / "snapshot.h5", "w") as file:
        file["model_weights/conv1/conv1/kernel:0"] = np.ones((7, 7, 3, 64), dtype="f4")
        file["model_weights/regression_submodel/pyramid_regression_0/bias:0"] = np.ones(256, dtype="f4")
        file["optimizer_weights/iterations:0"] = np.int64(3)
    tensors = read_weight_file(tmp_path / "snapshot.h5").tensors
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "conv1/kernel": (7, 7, 3, 64),
        "pyramid_regression_0/bias": (256,),
    }


def test_keras_files_with_links_or_empty_promises_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["conv1/kernel:0"] = h5py.ExternalLink("/etc/hostname", "/")
    assert "links" in refused(tmp_path / "link.h5")
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("conv1/kernel:0", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))
    assert "is no plain array in this file" in refused(tmp_path / "huge.h5")
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["a/kernel:0"] = np.ones(10_000, dtype="f4")
        for number in range(20):
            file[f"b{number}/kernel:0"] = file["a/kernel:0"]
    assert "is no plain array in this file" in refused(tmp_path / "many.h5")
    with h5py.File(tmp_path / "tree.h5", "w") as file:  # 40 links a level, 8 levels: 6 trillion ways
        group = file
        for level in range(8):
            following = file.create_group(f"level{level}")
            for link in range(40):
                group[f"{link}"] = following
            group = following
    assert "links" in refused(tmp_path / "tree.h5")
    with h5py.File(tmp_path / "circle.h5", "w") as file:
        file.create_group("a")["b"] = file["/"]
    assert "links" in refused(tmp_path / "circle.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "many.h5").read_bytes()[:3000])
    assert "fetch it again" in refused(tmp_path / "cut.h5")
