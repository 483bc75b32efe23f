"""What torch.save wrote, from a stranger: archive and pickle are looked at before torch's `weights_only` reader reads.

A file must hold, byte for byte, the numbers that it claims; nothing is unpacked, and zipped files are mapped, not read.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from foveal.errors import WeightsError
from foveal.model.torch_pickle import RefusedTorchPickleError, check_torch_pickle
from foveal.names import printable

MAX_STRUCTURE_BYTES = 16 * 2**20
"""Of what torch.save pickles beside the tensors' numbers: names, shapes, an optimiser's state."""
MAX_DIRECTORY_BYTES = 4 * 2**20
"""Of an archive's list of its entries, of which each tensor is one: enough for 40,000."""

ZIPPED = b"PK\x03\x04"
BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch's files begin with, now and before version 1.6."""

_END_BYTES = 56 + 20 + 22
"""Of an archive's end: the record of 64 bits, its locator and the end record."""

_ALONE = (
    "it could run a stranger's code, so save its state dict alone, as .safetensors or with "
    "torch.save(model.state_dict(), path)"
)


def read_torch_file(path: Path, if_more: str = _ALONE) -> Any:
    """What a .pth file holds, on the CPU; WeightsError for whatever torch should not or cannot read.

    if_more: what a message advises where the file holds more than tensors.
    """
    with open(path, "rb") as file:
        zipped = file.read(len(ZIPPED)) == ZIPPED
    try:
        if zipped:
            _check_archive(path)
        else:
            _check_old_file(path)
    except RefusedTorchPickleError as error:
        more = f"holds more than tensors ({error}) and is not opened; {if_more}"
        raise WeightsError(f"{path}: {more if error.whole else error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which are no concern of the user's
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        raise WeightsError(f"{path}: {why_unreadable(error)}") from None


def why_unreadable(error: Exception) -> str:
    """What a message says after the name of a weight file that torch or safetensors could not read, and why."""
    reason = _first_sentence(error)
    if isinstance(error, pickle.UnpicklingError):
        if "GLOBAL" in str(error):
            return f"holds more than tensors and is not opened; {_ALONE}"
        reason = "not written by torch.save"
    return f"is damaged or no weight file ({reason}); fetch it again"


def _first_sentence(error: Exception) -> str:
    return printable(" ".join(str(error).split()).split(". ")[0], 200) or type(error).__name__


class _Bounded(io.BufferedReader):
    """A file of which no more than a directory may be read at once; zipfile reads an archive's whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory has {size:,} bytes, more than that of any weight file")
        return super().read(size)


def _check_archive(path: Path) -> None:
    """torch stores tensors as they are; an archive that would grow when it is unpacked was not written by it."""
    size = path.stat().st_size
    try:
        with _Bounded(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(path, size, entries)
            structures = [archive.read(entry) for entry in entries if _is_structure(entry)]
            file.seek(max(0, size - _END_BYTES))
            if not _is_one_directory(file.read(_END_BYTES), size, archive.start_dir):
                raise WeightsError(
                    f"{path}: its directory is not where its end says, or something follows it, and it is not opened; "
                    "torch.save writes no such file, so fetch it from where it was published"
                )
        reader = torch._C.PyTorchFileReader(str(path))  # which finds what torch.load will
        _check_structure(path, reader.get_record_size("data.pkl"))
        structures.append(reader.get_record("data.pkl"))
    except WeightsError:
        raise
    except Exception as error:  # whatever damaged bytes lead to
        raise WeightsError(f"{path}: is damaged or no weight file ({_first_sentence(error)}); fetch it again") from None
    for structure in dict.fromkeys(structures):
        check_torch_pickle(io.BytesIO(structure), size)


def _check_entries(path: Path, size: int, entries: list[zipfile.ZipInfo]) -> None:
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise WeightsError(
            f"{path}: is a TorchScript program, which is code and is not run; if you trust it, save its state dict: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    _check_structure(path, sum(entry.file_size for entry in entries if _is_structure(entry)))
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(
            f"{path}: would unpack to {unpacked:,} bytes from {size:,} and is not opened; torch.save packs nothing, so "
            "fetch it from where it was published"
        )


def _is_one_directory(end: bytes, size: int, start: int) -> bool:
    """Whether torch finds an archive's directory at `start`, where zipfile found it: they look for it differently.

    end: the file's last bytes: a record of 64 bits and the locator that points at it, which both may be missing, and
    the end record. zipfile takes the directory that ends at the first of them, wherever they say that it begins, and
    never asks the locator; torch takes their word.
    """
    end = end.rjust(_END_BYTES, b"\0")
    record, locator, last = end[:56], end[56:76], end[76:]
    if last[:4] != b"PK\x05\x06" or last[20:] != b"\0\0":  # the length of a comment, in which another may stand
        return False
    if locator[:4] != b"PK\x06\x07":
        return int.from_bytes(last[16:20], "little") == start
    found = int.from_bytes(locator[8:16], "little"), int.from_bytes(record[48:], "little")
    return record[:4] == b"PK\x06\x06" and found == (size - _END_BYTES, start)


def _check_structure(path: Path, structure: int) -> None:
    if structure > MAX_STRUCTURE_BYTES:
        raise WeightsError(f"{path}: holds {structure:,} bytes beside its tensors; give its state dict alone")


def _is_structure(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.lower().endswith("data.pkl")  # torch looks for it in any case


def _check_old_file(path: Path) -> None:
    """Every pickle that torch would read of a file of before version 1.6."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = io.BytesIO(file.read(MAX_STRUCTURE_BYTES))
    try:
        for _ in range(5):  # torch's mark, its version, the machine, the state dict, the order of the storages
            check_torch_pickle(start, size)
    except RefusedTorchPickleError as error:
        if not error.whole and start.tell() == MAX_STRUCTURE_BYTES < size:
            raise RefusedTorchPickleError(
                f"holds more than {MAX_STRUCTURE_BYTES:,} bytes beside its tensors; give its state dict alone"
            ) from None
        raise
