import subprocess
import sys
from functools import partial

import pytest
import torch

from benchmarks.memory import peak_bytes
from foveal.anchors import Anchors
from foveal.config import Config, preset
from foveal.detections import Batch, Objects
from foveal.engine.memory import check_memory, estimate_step_bytes
from foveal.engine.step import make_optimiser, train_step
from foveal.errors import TrainingError
from foveal.model.retinanet import build_model

SETTINGS = {
    "model": {"weights": "none", "batch_norm": "trained", "levels": "3-5", "pyramid_channels": 32, "head_channels": 32},
    "anchors": {"sizes": [32, 64, 128]},
}


def config() -> Config:
    return preset("light").with_changes(SETTINGS)


def test_the_estimate_grows_with_pictures_and_pixels_and_leaves_the_model_alone():
    model = build_model(config(), 3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    small, more, larger = (
        estimate_step_bytes(model, *size) for size in ((1, (64, 64)), (4, (64, 64)), (1, (128, 128)))
    )
    assert more > small
    assert larger > small
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("batch_norm", ["evaluating", "trained"])
def test_the_estimate_knows_that_a_backbone_computed_twice_keeps_less(batch_norm):
    plain = config().with_changes({"model.batch_norm": batch_norm})
    twice = plain.with_changes({"train.recompute_backbone": True})
    needed = [estimate_step_bytes(build_model(c, 3).train(), 4, (128, 128)) for c in (plain, twice)]
    assert 0.4 * needed[0] < needed[1] < 0.75 * needed[0]


def test_what_does_not_fit_is_refused_with_what_helps(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**20})())
    with pytest.raises(TrainingError) as caught:
        check_memory(build_model(config(), 3).train(), config(), 8, (320, 320), lambda: None)
    for word in (
        "8 pictures of 320 x 320", "GiB", "--train.accumulate 2", "--train.recompute-backbone", "--data.size 240",
        "--train.batch-size 4",
    ):  # fmt: skip
        assert word in str(caught.value)


@pytest.mark.parametrize("mining", ["all", "ohem"])
def test_the_estimate_is_a_close_bound_where_the_outputs_are_most_of_a_step(mining):
    """Of 600 classes; torch's own memory at its peak, beside which the system's has some more."""
    loss = {"mining": mining, "normaliser": "image"}
    many = config().with_changes({"loss": loss, "model.pyramid_channels": 16, "model.head_channels": 16})
    model, anchors = build_model(many, 600).train(), Anchors.from_config(many)
    batch = Batch.pack([torch.zeros(3, 256, 256, dtype=torch.uint8)], [Objects.of([[10, 10, 60, 60]], [0])])
    step = partial(train_step, model, make_optimiser(model, many.train), [batch], anchors, many, 1e-6)
    step()
    assert 1 < estimate_step_bytes(model, 1, (256, 256), mining != "all") / peak_bytes(step) < 1.6


MEASURE = """
import torch
from foveal.config import preset
from foveal.engine.memory import estimate_step_bytes
from foveal.model.retinanet import build_model
from foveal.anchors import Anchors
from foveal.detections import Batch, Objects
from foveal.engine.step import make_optimiser, train_step
torch.set_num_threads(1)
config = preset("light").with_changes({settings!r})
model = build_model(config, 3).train()
optimiser = make_optimiser(model, config.train)
anchors = Anchors.from_config(config)
def step(images, side):
    objects = Objects.of([[10, 10, 60, 60]], [0])
    batch = Batch.pack([torch.zeros(3, side, side, dtype=torch.uint8)] * images, [objects] * images)
    train_step(model, optimiser, [batch], anchors, config, 1e-4)
def peak():  # not ru_maxrss, which a new process inherits from the one that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
step(1, 64)
before = peak()
step(8, 320)
print(peak() - before, estimate_step_bytes(model, 8, (320, 320)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True])
def test_the_estimate_is_near_what_a_step_really_takes(twice):
    settings = {**SETTINGS, "train": {"recompute_backbone": twice}}
    done = subprocess.run([sys.executable, "-c", MEASURE.format(settings=settings)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured, estimated = map(int, done.stdout.split())
    assert 0.8 < estimated / measured < 1.6, (
        f"measured {measured / 2**20:.0f} MiB, estimated {estimated / 2**20:.0f} MiB"
    )
