import json
import os

import pytest
import torch

from foveal.config import Config
from foveal.engine import checkpoint
from foveal.engine.checkpoint import Snapshot
from foveal.errors import CheckpointError, UsageError


def snapshot(step: int, ema: bool = False) -> Snapshot:
    tensors = {"model": {"weight": torch.full((3,), float(step))}, "optimiser": {"0.step": torch.tensor(step)}}
    if ema:
        tensors["ema"] = {"weight": torch.full((3,), step + 0.5)}
    return Snapshot({"step": step}, tensors)


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path):
    checkpoint.write_checkpoint(tmp_path, snapshot(7, ema=True), best=True)
    back = checkpoint.read_checkpoint(tmp_path)
    assert back is not None
    assert back.state == {"step": 7}
    assert set(back.tensors) == {"model", "ema", "optimiser"}
    torch.testing.assert_close(back.tensors["ema"]["weight"], torch.full((3,), 7.5))


def test_only_the_last_and_the_best_checkpoint_are_kept(tmp_path):
    for step, best in ((1, True), (2, False), (3, True), (4, False), (5, False)):
        checkpoint.write_checkpoint(tmp_path, snapshot(step), best)
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert folders == ["step-00000003", "step-00000005"]
    assert checkpoint.pointed_at(tmp_path, "best") == "step-00000003"
    torch.testing.assert_close(checkpoint.run_weights(tmp_path, "best")["weight"], torch.full((3,), 3.0))
    torch.testing.assert_close(checkpoint.run_weights(tmp_path, "last")["weight"], torch.full((3,), 5.0))


def test_the_weights_to_use_are_the_averaged_ones_where_there_are_any(tmp_path):
    checkpoint.write_checkpoint(tmp_path, snapshot(2, ema=True), best=False)
    torch.testing.assert_close(checkpoint.run_weights(tmp_path, "best")["weight"], torch.full((3,), 2.5))


def test_a_folder_without_checkpoint_has_none(tmp_path):
    assert checkpoint.read_checkpoint(tmp_path / "nowhere") is None
    assert checkpoint.read_checkpoint(tmp_path) is None


def test_a_pointer_to_a_folder_that_is_gone_counts_as_no_checkpoint(tmp_path):
    checkpoint.write_checkpoint(tmp_path, snapshot(1), best=False)
    checkpoint.write_text(tmp_path / "checkpoints" / "last", "step-00000099")
    assert checkpoint.read_checkpoint(tmp_path) is None


@pytest.mark.parametrize("call", range(1, 16))
def test_dying_at_any_write_leaves_the_old_checkpoint_or_the_new_one(tmp_path, monkeypatch, call):
    """Every rename, link and flush in turn is the last thing the process does."""
    checkpoint.write_checkpoint(tmp_path, snapshot(1), best=True)
    calls = 0

    class Died(BaseException):
        pass

    def dying(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                raise Died
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "link", "fsync"):
            patched.setattr(os, name, dying(getattr(os, name)))
        try:
            checkpoint.write_checkpoint(tmp_path, snapshot(2), best=True)
        except Died:
            pass
        else:
            pytest.fail("the list of writes is shorter than this test thinks; lower its range")
    back = checkpoint.read_checkpoint(tmp_path)
    assert back is not None
    assert back.state["step"] in (1, 2)
    torch.testing.assert_close(back.tensors["model"]["weight"], torch.full((3,), float(back.state["step"])))
    checkpoint.publish_weights(tmp_path)
    torch.testing.assert_close(checkpoint.run_weights(tmp_path, "last")["weight"], back.tensors["model"]["weight"])
    # Whoever goes on from step 1 writes step 2 again; then, or if step 2 had counted, it is the best one.
    if back.state["step"] == 1:
        checkpoint.write_checkpoint(tmp_path, snapshot(2), best=True)
    checkpoint.write_checkpoint(tmp_path, snapshot(3), best=False)
    torch.testing.assert_close(checkpoint.run_weights(tmp_path, "best")["weight"], torch.full((3,), 2.0))
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert folders == ["step-00000002", "step-00000003"]


def test_equal_tensors_give_equal_files(tmp_path):
    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 2)}
    checkpoint.save_tensors(tmp_path / "one.safetensors", tensors)
    checkpoint.save_tensors(tmp_path / "two.safetensors", dict(reversed(tensors.items())))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_metrics_are_cut_back_to_the_checkpoint_but_never_grown(tmp_path):
    file = tmp_path / "metrics.jsonl"
    checkpoint.cut_metrics(tmp_path, 5)
    assert not file.exists()
    file.write_text("one\ntwo\nthr")
    checkpoint.cut_metrics(tmp_path, 8)
    assert file.read_text() == "one\ntwo\n"
    checkpoint.cut_metrics(tmp_path, 80)
    assert file.read_text() == "one\ntwo\n"


def test_a_run_tells_its_classes_and_settings(tmp_path):
    checkpoint.write_description(tmp_path, Config(seed=5), ["cat", "dog"], [3, 17], data={"fingerprint": "x"})
    run = checkpoint.read_run(tmp_path)
    assert (run.class_names, run.category_ids, run.config.seed, run.threshold) == (("cat", "dog"), (3, 17), 5, None)
    checkpoint.write_json(tmp_path / "result.json", {"threshold": 0.42})
    assert checkpoint.read_run(tmp_path).threshold == 0.42


def test_what_is_no_run_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="no such run folder"):
        checkpoint.read_run(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is not a run"):
        checkpoint.read_run(tmp_path)
    with pytest.raises(CheckpointError, match="no weights yet"):
        checkpoint.run_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"id": "x", "name": "y"}]', "null"])
def test_a_damaged_class_list_is_one_clear_sentence(tmp_path, text):
    checkpoint.write_description(tmp_path, Config(), ["cat"], [1])
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"classes\.json"):
        checkpoint.read_run(tmp_path)


def test_cut_off_weights_are_one_clear_sentence(tmp_path):
    checkpoint.write_checkpoint(tmp_path, snapshot(1), best=False)
    whole = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").unlink()
    (tmp_path / "last.safetensors").write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match=r"last\.safetensors: is damaged .*; restore it, or train again$"):
        checkpoint.run_weights(tmp_path, "last")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimiser_goes_on_exactly_where_it_stopped(kind, layout):
    def build() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.arange(16.0).reshape(2, 2, 2, 2).to(memory_format=layout))
        if kind == "sgd":
            return weight, torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
        return weight, torch.optim.AdamW([weight], lr=0.1, fused=True)

    def advance(weight: torch.nn.Parameter, optimiser: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            weight.grad = weight.detach() ** 2 + 1
            optimiser.step()

    unbroken, optimiser = build()
    advance(unbroken, optimiser, 5)
    first, optimiser = build()
    advance(first, optimiser, 3)
    # What comes back from a file is contiguous, whatever it was.
    kept = {name: tensor.contiguous().clone() for name, tensor in checkpoint.optimiser_tensors(optimiser).items()}
    second, optimiser = build()
    second.data.copy_(first.data)
    checkpoint.restore_optimiser(optimiser, kept)
    advance(second, optimiser, 2)
    assert torch.equal(second, unbroken)


def test_json_is_written_whole(tmp_path):
    checkpoint.write_json(tmp_path / "a" / "b.json", {"é": [1]})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"é": [1]}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_a_damaged_result_is_one_clear_sentence(tmp_path, text):
    checkpoint.write_description(tmp_path, Config(), ("a",), (1,))
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"result\.json: is not an object"):
        checkpoint.read_run(tmp_path)


def test_a_file_in_place_of_a_run_is_told(tmp_path):
    (tmp_path / "best.safetensors").write_text("")
    with pytest.raises(UsageError, match="is a file; give the run's folder"):
        checkpoint.read_run(tmp_path / "best.safetensors")
