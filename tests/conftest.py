"""What all tests share: the folder of real data that lies beside a checkout on the maintainers' machines."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, and for the processes that tests start: several tests run beside each other, and OpenMP's
# threads wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from foveal import compiled

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(1)

# Triton decides when it is imported: its kernels run on the GPU where there is one, else in its interpreter.
INTERPRETED = not torch.cuda.is_available()
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"

# A first call that loads code, or a busy machine, is no failure; the same examples on every run.
settings.register_profile("foveal", deadline=None, derandomize=True)
settings.load_profile("foveal")


def shared(name: str) -> Path:
    """A folder of the shared data; a test that needs it says so when it is not there."""
    if not SHARED.exists():
        pytest.skip(f"needs {name} of the shared data folder, which lies beside the checkout where there is one")
    return SHARED / name


@pytest.fixture
def bloodcells() -> Path:
    return shared("data/bloodcells")


@pytest.fixture
def coco_small() -> Path:
    return shared("data/coco_small")


@pytest.fixture
def raccoon() -> Path:
    return shared("data/raccoon")


@pytest.fixture
def eval_fixtures() -> Path:
    return shared("data/eval_fixtures")


@pytest.fixture
def mobilenet_weights() -> Path:
    return shared("weights/mobilenet_v2-b0353104.pth")


@pytest.fixture(scope="module")
def kernels() -> None:
    """For what needs the compiled kernels."""
    if compiled.KERNELS is None:
        pytest.skip(f"needs the compiled kernels: {compiled.said_of_kernels()}")


@pytest.fixture(scope="module", params=["compiled", "in Python"])
def with_and_without_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything twice: through the compiled kernels and through what stands in for them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "compiled":
            request.getfixturevalue("kernels")
        else:
            patch.setattr(compiled, "KERNELS", None)
        yield


@pytest.fixture
def fresh_compiler() -> None:
    """torch.compile forgets what other tests compiled: of one function it takes eight networks, then refuses."""
    torch._dynamo.reset()
