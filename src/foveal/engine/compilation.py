"""torch.compile of the network for training: a switch, and a sentence where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from foveal.config import TrainConfig
from foveal.errors import TrainingError


def compiled(model: nn.Module, train: TrainConfig) -> nn.Module:
    """The network that training steps call: compiled under `train.compile`, with the parameters of `model`.

    `model` itself stays as it is, for evaluation, checkpoints and the averaged weights. Nothing is compiled before the
    first call; another padded shape may compile once more.
    """
    return torch.compile(model) if train.compile else model  # type: ignore[return-value]


@contextmanager
def compile_failure_explained() -> Iterator[None]:
    """A machine on which torch.compile does not work says what is missing, as TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"train.compile: torch cannot compile the network here ({reason}); install a C++ compiler (g++ or clang), "
            "or train without train.compile"
        ) from error
