"""The README.md of a run on the hub: YAML for the hub's search, and what a person must know before using the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from foveal.config import Config
from foveal.wording import counted

_METRICS = {"AP": "AP", "AP50": "AP at IoU .5", "AP75": "AP at IoU .75", "recommended_f1": "F1 at the threshold"}


@dataclass(frozen=True)
class CardFacts:
    """What a card tells. Every field may be published: no path, no name of a machine.

    data: name, format, images, boxes of the training data, where they are known. evaluation: the numbers on the
    validation split, 0 .. 1. source: the project and the file that the run was imported from.
    """

    repository: str
    license: str
    config: Config
    class_names: tuple[str, ...]
    threshold: float | None
    steps: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    source: tuple[str, str] | None = None


def model_card(facts: CardFacts) -> str:
    """The whole README.md."""
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(part for part in _parts(facts) if part) + "\n"


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": facts.license,
        "library_name": "foveal",
        "pipeline_tag": "object-detection",
        "tags": ["foveal", "retinanet", "focal-loss", "object-detection"],
    }
    metrics = [
        {"type": name.lower(), "name": shown, "value": round(facts.evaluation[name], 4)}
        for name, shown in _METRICS.items()
        if name in facts.evaluation
    ]
    if metrics:
        name = _word(facts.data.get("name") or "unknown")
        split = _word(facts.config.data.val_split)
        result = {
            "task": {"type": "object-detection"},
            "dataset": {"name": name, "type": name, "split": split},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": facts.repository.split("/")[1], "results": [result]}]
    return front


def _parts(facts: CardFacts) -> list[str]:
    config, address = facts.config, f"hf://{facts.repository}"
    name = facts.repository.split("/")[1]
    kind = f"A RetinaNet with {_word(config.model.backbone)}"
    made = (
        f"{kind}, imported into Foveal from {_word(facts.source[0])} (`{_word(facts.source[1])}`)."
        if facts.source
        else f"{kind} and the focal loss, trained with Foveal."
        if config.loss.name == "focal"
        else f"{kind}, trained with Foveal and the loss {config.loss.name}."
    )
    python = f'import foveal\ndetector = foveal.load("{address}")\nfound = detector("picture.jpg")'
    shell = f"foveal predict {address} picture.jpg --out found --draw"
    classes = ", ".join(f"`{_word(one)}`" for one in facts.class_names)
    licence = "It is not known under which licence." if facts.license == "unknown" else f"Licence: {facts.license}."
    return [
        f"# {name}",
        f"{made} {licence}",
        f"```python\n{python}\n```\n\n```sh\n{shell}\n```",
        f"It finds {len(facts.class_names)} {'class' if len(facts.class_names) == 1 else 'classes'}: {classes}.",
        _table("what", "value", _facts(facts)),
        _evaluation(facts),
    ]


def _facts(facts: CardFacts) -> dict[str, Any]:
    config, data = facts.config, facts.data
    threshold = config.inference.show_threshold if facts.threshold is None else facts.threshold
    found = "" if facts.threshold is None else ", found on the validation split"
    known = {
        "training data": f"`{_word(data['name'])}`" if data.get("name") else "unknown",
        "pictures, boxes": f"{data['images']:,}, {data['boxes']:,}" if "images" in data and "boxes" in data else None,
        "steps": f"{facts.steps:,}" if facts.steps is not None else None,
        "shorter side of a picture": f"{config.data.size} px, the longer at most {config.data.longest}",
        "score to show from": f"{threshold:.3g}{found}",
    }
    return {name: value for name, value in known.items() if value is not None}


def _evaluation(facts: CardFacts) -> str:
    shown = {name: f"{100 * facts.evaluation[key]:.1f}" for key, name in _METRICS.items() if key in facts.evaluation}
    if not shown:
        return ""
    images = facts.evaluation.get("images")
    split = f"`{_word(facts.config.data.val_split)}`" + (f" ({counted(int(images), 'picture')})" if images else "")
    note = (
        f"In percent, on the validation split {split}. The weights and the threshold were chosen on it, so expect "
        "slightly less elsewhere."
    )
    return "## Evaluation\n\n" + note + "\n\n" + _table("number", "value", shown)


def _table(left: str, right: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {left} | {right} |", "| --- | --- |", *lines])


def _word(text: str) -> str:
    """A name inside Markdown: on one line, and without what would end its cell, its code or begin a tag."""
    return " ".join(str(text).split()).replace("`", "'").replace("|", "/").replace("<", "(").replace(">", ")")
