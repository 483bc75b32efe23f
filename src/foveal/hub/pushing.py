"""A run onto the Hugging Face hub: its weights, settings, classes and numbers, with a card that says what they are.

    config.yaml classes.json result.json evaluation.json   without paths, and without what holds for one machine only
    best.safetensors (or last.safetensors)                 weights alone
    README.md                                              the card

Nothing else of the run's folder travels: no picture, no log, no environment, no checkpoint.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from foveal.engine.checkpoint import (
    RunInfo,
    Which,
    read_json,
    read_run,
    run_weights,
    save_tensors,
    write_description,
    write_text,
)
from foveal.engine.run_numbers import evaluation_at, threshold_of
from foveal.errors import HubError, UsageError
from foveal.hub.addresses import Address, address_of, check_repository, endpoint, hub_errors, hub_library
from foveal.hub.model_card import CardFacts, model_card
from foveal.hub.strangers import DESCRIPTION, OPTIONAL, WEIGHTS
from foveal.names import MAX_CLASS_NAME, is_class_name, printable
from foveal.runtime.publishing import name_of, publishable

EVALUATION = "evaluation.json"


def push(
    run: str | os.PathLike[str],
    repository: str,
    *,
    license: str = "unknown",
    private: bool = False,
    which: Which = "best",
) -> str:
    """Puts a run onto the hub as owner/name, which is made where it is missing, and gives its address `hf://owner/name`.

    license: what the hub calls it, such as apache-2.0; nobody but you can know it. private: of a repository that is
    made; one that others can see already is refused. UsageError without a token, HubError where the hub refuses.
    """
    if (there := address_of(run)) is not None:
        raise UsageError(f"{there}: is on the hub already; give a run's folder")
    address = Address(check_repository(repository))
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", license):  # it becomes a line of the card's YAML
        raise UsageError(f"'{printable(license)}' is no licence's name on the hub: write one such as apache-2.0")
    hub = hub_library()
    if not hub.get_token():
        raise UsageError("there is no token to write to the hub with: log in with `hf auth login`, or set HF_TOKEN")
    info = read_run(run)
    if info.config.model.backbone.startswith("hf:"):
        raise UsageError(
            f"{info.path}: its backbone is one of transformers ({info.config.model.backbone}), and such runs are not "
            "loaded from the hub; hand the run's folder on instead"
        )
    if unfit := [name for name in info.class_names if not is_class_name(name)]:
        raise UsageError(
            f"{info.path}: a class is called '{printable(unfit[0])}', and on the hub a name has 1 to {MAX_CLASS_NAME} "
            "characters and no control characters; correct classes.json"
        )
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside)
        write_published(folder, info, repository, license, which)
        api = hub.HfApi(endpoint=endpoint())
        with hub_errors(address):
            api.create_repo(repository, private=private or None, exist_ok=True)
            if private and not api.model_info(repository).private:
                raise HubError(f"{address}: can be seen by everybody already; make it private on its page first")
            # What an earlier push left would belong to other weights.
            stale = [*DESCRIPTION, *OPTIONAL, *WEIGHTS, EVALUATION]
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Foveal run", delete_patterns=stale
            )
    return str(address)


def write_published(folder: Path, run: RunInfo, repository: str, license: str, which: Which) -> None:
    """Writes what of a run is published, and nothing else, into the empty `folder`."""
    best = which == "best" and (run.path / "best.safetensors").exists()
    save_tensors(folder / ("best.safetensors" if best else "last.safetensors"), run_weights(run.path, which))
    result = _read(run.path / "result.json")
    kept: dict[str, Any] = {
        name: result[name] for name in ("steps", "best_step", "AP", "threshold", "minutes") if name in result
    }
    step, best_step = result.get("best_step" if best else "steps"), result.get("best_step")
    evaluation, threshold = evaluation_at(run.path, step), threshold_of(run, which)
    if step != best_step:  # AP and threshold of result.json are the best step's
        of_step = {"AP": evaluation.get("AP"), "threshold": threshold}
        kept = {name: value for name, value in (kept | of_step).items() if name != "best_step" and value is not None}
    config = publishable(run.config)
    parts = {"result": kept, "evaluation": evaluation}
    write_description(
        folder, config, run.class_names, run.category_ids, **{name: part for name, part in parts.items() if part}
    )
    source = _read(run.path / "import.json")
    facts = CardFacts(
        repository=repository,
        license=license,
        config=config,
        class_names=run.class_names,
        threshold=threshold,
        steps=step,
        data=_data(run.path),
        evaluation=evaluation,
        source=(str(source["source"]), name_of(str(source["file"]))) if {"source", "file"} <= source.keys() else None,
    )
    write_text(folder / "README.md", model_card(facts))


def _data(folder: Path) -> dict[str, Any]:
    """Name and size of the training data; of its place only the last folder's name."""
    data = _read(folder / "data.json")
    named = {"name": name_of(str(data["root"]))} if "root" in data else {}
    return named | {name: data[name] for name in ("images", "boxes") if isinstance(data.get(name), int)}


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.exists() else {}
    return content if isinstance(content, dict) else {}
