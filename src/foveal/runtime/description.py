"""What an exported file says about itself: enough to use it without the run that it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from foveal.config import Config, build_config
from foveal.errors import FovealError, WeightsError
from foveal.hub.strangers import beyond_limits

FORMAT = "1"


@dataclass(frozen=True)
class Description:
    """The metadata of a file, as text values by name in ONNX, OpenVINO and torch.export alike.

    resize: takes pictures of any size and answers in their pixels; else they come resized and padded.
    nms: gives boxes, scores and labels; else what the network's last convolutions give.
    weights: SHA-256 of the run's weight file. check: the numbers of the comparison with PyTorch.
    int8: AP before and after quantisation, and how it was done; empty in a float32 file.
    """

    config: Config
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    threshold: float | None
    resize: bool
    nms: bool
    weights: str
    check: Mapping[str, Any] = field(default_factory=dict)
    int8: Mapping[str, Any] = field(default_factory=dict)

    @property
    def show_from(self) -> float:
        """The score from which a `Detector` shows what it finds."""
        return self.config.inference.show_threshold if self.threshold is None else self.threshold

    def as_metadata(self) -> dict[str, str]:
        """What `of_metadata` reads back, and `show_from` for programs that know nothing of `config`."""
        return {
            "foveal_format": FORMAT,
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "category_ids": json.dumps(self.category_ids),
            "threshold": json.dumps(self.threshold),
            "show_from": json.dumps(self.show_from),
            "resize": json.dumps(self.resize),
            "nms": json.dumps(self.nms),
            "weights": self.weights,
            "check": json.dumps(self.check),
            "int8": json.dumps(self.int8),
            "config": self.config.to_yaml(),
        }

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str], path: Path) -> Description:
        """Reads them back; WeightsError where a file is not of ours or newer than this version."""
        if metadata.get("foveal_format") != FORMAT:
            found = metadata.get("foveal_format")
            reason = f"is of format {found}, newer than this version" if found else "was not written by `foveal export`"
            raise WeightsError(f"{path}: {reason}; export the run again with this version")
        try:
            threshold = json.loads(metadata["threshold"])
            told = cls(
                config=build_config(yaml.safe_load(metadata["config"])),
                class_names=tuple(str(name) for name in json.loads(metadata["class_names"])),
                category_ids=tuple(int(number) for number in json.loads(metadata["category_ids"])),
                threshold=None if threshold is None else float(threshold),
                resize=bool(json.loads(metadata["resize"])),
                nms=bool(json.loads(metadata["nms"])),
                weights=metadata["weights"],
                check=json.loads(metadata["check"]),
                int8=json.loads(metadata.get("int8", "{}")),
            )
            told._check()
        except (
            KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError, yaml.YAMLError, FovealError
        ) as error:  # fmt: skip
            raise WeightsError(f"{path}: its metadata cannot be read ({error}); export the run again") from None
        # How many pixels a picture may have is the user's own wish where the run was; it takes no memory by itself.
        if beyond := beyond_limits(told.config, apart="data.max_pixels"):
            raise WeightsError(f"{path}: {beyond}; it is not used")
        return told

    def _check(self) -> None:
        """ValueError for values that are of the right kind and yet say nothing."""
        names = self.class_names
        if not names or len(set(names)) < len(names) or len(self.category_ids) != len(names):
            raise ValueError(f"{len(names)} class names, not all different, or {len(self.category_ids)} category ids")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"a threshold of {self.threshold:g}")


def fingerprint(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
