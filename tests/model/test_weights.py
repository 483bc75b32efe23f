"""Weight files: what loads, what is refused and what the refusal says."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from foveal.errors import UsageError, WeightsError
from foveal.model.mobilenet import MobileNetV2
from foveal.model.resnet import resnet
from foveal.model.weights import copy_matching, load_backbone, read_tensors


def written(folder: Path, name: str, content: object) -> Path:
    torch.save(content, folder / name)
    return folder / name


def test_torchvisions_mobilenet_file_loads_as_it_is(mobilenet_weights):
    backbone = MobileNetV2()
    load_backbone(backbone, str(mobilenet_weights), "mobilenet_v2")
    file = read_tensors(mobilenet_weights)
    state = backbone.state_dict()
    assert set(file) - set(state) == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(state[key], file[key]) for key in state)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_backbone_goes_through_a_file_and_back(tmp_path, ending):
    torch.manual_seed(0)
    source, target = resnet("resnet18"), resnet("resnet18")
    tensors = {**source.state_dict(), "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    path = tmp_path / f"resnet18{ending}"
    save_file(tensors, path) if ending == ".safetensors" else torch.save(tensors, path)
    load_backbone(target, str(path), "resnet18")
    assert_close(dict(target.state_dict()), dict(source.state_dict()))


def test_files_without_counters_of_batches_load(tmp_path):
    tensors = {k: v for k, v in resnet("resnet18").state_dict().items() if "num_batches" not in k}
    load_backbone(resnet("resnet18"), str(written(tmp_path, "old.pth", tensors)), "resnet18")


def test_another_architecture_is_refused_in_one_sentence(tmp_path):
    path = written(tmp_path, "resnet18.pth", dict(resnet("resnet18").state_dict()))
    with pytest.raises(WeightsError, match=r"resnet18\.pth: these are not mobilenet_v2 weights \(.* missing.*backbone"):
        load_backbone(MobileNetV2(), str(path), "mobilenet_v2")


def test_other_shapes_are_refused_and_nothing_is_loaded(tmp_path):
    tensors = dict(resnet("resnet18").state_dict())
    tensors["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    backbone = resnet("resnet18")
    before = backbone.bn1.weight.clone()
    tensors["bn1.weight"] = before + 1
    with pytest.raises(WeightsError, match=r"0 tensors missing, 0 unknown, 1 of another shape, such as conv1\.weight"):
        load_backbone(backbone, str(written(tmp_path, "grey.pth", tensors)), "resnet18")
    assert_close(backbone.bn1.weight, before)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    path = written(tmp_path, "hostile.pth", {"weight": Hostile(tmp_path / "ran")})
    with pytest.raises(WeightsError, match=r"hostile\.pth: holds more than tensors \(names posix.system\) and is not"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="save its state dict alone"):
        read_tensors(written(tmp_path, "module.pth", nn.Linear(2, 2)))


def zipped(folder: Path, structure: bytes, name: str = "data.pkl") -> Path:
    """A file as torch.save would write it around this pickle."""
    with zipfile.ZipFile(folder / "hostile.pth", "w") as archive:
        archive.writestr(f"archive/{name}", structure)
        archive.writestr("archive/version", "3\n")
    return folder / "hostile.pth"


NESTED = b"\x80\x02})" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(40)) + b"K\x01s."


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x20\x85R.", "holds more than tensors"),
        (NESTED, "has keys that are not names or numbers"),
    ],
    ids=["half a gigabyte", "tuples of tuples as a key"],
)
def test_a_file_that_would_cost_much_is_not_handed_to_torch(tmp_path, monkeypatch, structure, said):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was handed to torch"))
    for file in (zipped(tmp_path, structure), tmp_path / "old.pth"):
        if file.name == "old.pth":  # as torch wrote it before it took zip, where this is the first of five pickles
            file.write_bytes(structure)
        with pytest.raises(WeightsError, match=said) as caught:
            read_tensors(file)
        assert len(str(caught.value)) < 500


def test_a_packed_archive_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was handed to torch"))
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(100_000)}, buffer)
    with zipfile.ZipFile(buffer) as stored, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    with pytest.raises(WeightsError, match="would unpack to 40"):
        read_tensors(tmp_path / "bomb.pth")


def stored(structure: bytes, padding: int = 0, packing: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", structure, packing)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/padding", b" " * padding)
    return buffer.getvalue()


def two_in_one() -> bytes:
    """17 MB packed small where the end says that the directory is, which torch believes; zipfile takes what is last."""
    packed, plain = stored(bytes(17 * 2**20), packing=zipfile.ZIP_DEFLATED), b"\x80\x02}."
    alike = stored(plain, len(packed) - len(stored(plain)))
    return packed[:-22] + alike


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        two_in_one(),
        saved() + saved(),
        saved()[:-34] + bytes(8) + saved()[-26:],
        saved()[:-2] + b"\x01\x00 ",
    ],
    ids=["two archives", "two of torch's", "a locator of another record", "a comment"],
)
def test_an_archive_with_two_directories_is_not_handed_to_torch(tmp_path, monkeypatch, content):
    monkeypatch.setattr(torch._C, "PyTorchFileReader", lambda *_: pytest.fail("was handed to torch"))
    (tmp_path / "bomb.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"bomb\.pth: its directory is not where its end says"):
        read_tensors(tmp_path / "bomb.pth")


def test_of_what_torch_finds_no_more_is_read_than_a_state_dict_has(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.model.torch_files._is_one_directory", lambda *_: True)
    (tmp_path / "bomb.pth").write_bytes(two_in_one())
    with pytest.raises(WeightsError, match="holds 17,825,792 bytes beside its tensors"):
        read_tensors(tmp_path / "bomb.pth")


def test_an_archive_without_records_of_64_bits_is_read(tmp_path):
    """Which zipfile writes, and torch reads as well as its own."""
    with zipfile.ZipFile(io.BytesIO(saved())) as theirs, zipfile.ZipFile(tmp_path / "plain.pth", "w") as archive:
        for entry in theirs.infolist():
            archive.writestr(entry.filename, theirs.read(entry))
    assert_close(read_tensors(tmp_path / "plain.pth"), {"a": torch.zeros(3)})


def test_a_file_larger_than_any_network_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.model.weights.MAX_BYTES", 100)
    torch.save({"a": torch.zeros(100)}, tmp_path / "large.pth")
    with pytest.raises(WeightsError, match="bytes, more than any network's"):
        read_tensors(tmp_path / "large.pth")


def test_a_tensor_that_repeats_a_few_bytes_for_ever_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"its tensors claim 40,000,000,000 bytes and the file has"):
        read_tensors(written(tmp_path, "long.pth", {"a": torch.zeros(1).expand(10**10)}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.pth", b"<!DOCTYPE html><html>404</html>"),
        ("empty.pth", b""),
        ("page.safetensors", b"<!DOCTYPE html><html>404</html>"),
        ("empty.safetensors", b""),
    ],
)
def test_a_file_that_holds_no_weights_is_called_damaged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: is damaged or no weight file \(.+\); fetch it again"):
        read_tensors(tmp_path / name)


def test_a_cut_off_file_is_called_damaged(tmp_path):
    path = written(tmp_path, "cut.pth", {"weight": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match="is damaged"):
        read_tensors(path)


def test_a_training_checkpoint_is_refused_by_its_entries(tmp_path):
    path = written(tmp_path, "checkpoint.pth", {"model": {"weight": torch.zeros(1)}, "epoch": 3})
    with pytest.raises(WeightsError, match="not a state dict but holds entries model, epoch; save the state dict"):
        read_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.pth: there is no such weight file"):
        read_tensors(tmp_path / "nowhere.pth")


def test_without_a_network_the_message_says_to_give_a_path(tmp_path, monkeypatch):
    def offline(url: str, *args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        WeightsError, match=r"resnet50-0676ba61\.pth: cannot be downloaded .*model\.weights to its path"
    ):
        load_backbone(resnet("resnet50"), "imagenet", "resnet50")


def test_a_backbone_without_published_weights_says_so():
    with pytest.raises(WeightsError, match=r"publishes none for resnet50_caffe; set model\.weights to a file"):
        load_backbone(nn.Identity(), "imagenet", "resnet50_caffe")


def test_imagenet_weights_are_downloaded_once(tmp_path, monkeypatch):
    source = resnet("resnet18")
    asked: list[tuple[str, str]] = []

    def download(url: str, dst: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        torch.save(source.state_dict(), dst)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        backbone = resnet("resnet18")
        load_backbone(backbone, "imagenet", "resnet18")
        assert_close(backbone.conv1.weight, source.conv1.weight)
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]


def test_what_fits_is_copied_and_what_does_not_is_named():
    run, model = nn.Linear(3, 4), nn.Linear(3, 5)
    before = model.weight.clone()
    assert copy_matching(model, run.state_dict()) == ["weight", "bias"]
    assert_close(model.weight, before)
    same = nn.Linear(3, 4)
    assert copy_matching(same, run.state_dict()) == []
    assert_close(same.weight, run.weight)


def test_names_that_the_file_lacks_stay_as_they_are():
    model = nn.Linear(2, 2)
    before = model.bias.clone()
    assert copy_matching(model, {"weight": torch.ones(2, 2), "other": torch.ones(1)}) == ["bias"]
    assert_close(model.weight, torch.ones(2, 2), check_stride=False)
    assert_close(model.bias, before)
