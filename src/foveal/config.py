"""Every number that can be set, in one frozen, validated object; presets are plain differences from its defaults.

The defaults are the paper's. Precedence: preset < YAML file < flags. The same object is written into every run as
config.yaml and read back from it. Lengths are pixels unless a name says otherwise.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from tyro.conf import Suppress

from foveal.errors import ConfigError
from foveal.wording import counted

BACKBONES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "mobilenet_v2",
    "resnet50_caffe", "resnet101_caffe", "resnet152_caffe",
)  # fmt: skip
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Group(BaseModel):
    """Frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class ModelConfig(Group):
    """The network: backbone, feature pyramid, the two subnets (paper section 4)."""

    backbone: str = "resnet50"
    """resnet18, 34, 50, 101, 152, resnext50_32x4d, resnext101_32x8d, mobilenet_v2; resnet50_caffe and deeper, with a
    block's stride in its first convolution, as in detectron2; or hf:NAME or hf:FOLDER, any backbone of transformers."""
    weights: str = "imagenet"
    """Start of the backbone: `imagenet` (downloaded by name; for hf: whatever the model publishes), `none`, or the path
    of a .pth or .safetensors file."""
    batch_norm: Literal["frozen", "evaluating", "trained"] = "frozen"
    """Backbone batch norm: frozen (statistics and affine fixed), evaluating (statistics fixed), trained."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """How many of five backbone stages, counted from the picture, keep their pretrained weights; of a plain vision
    transformer the embedding and four quarters of the blocks."""
    levels: str = "3-7"
    """Pyramid levels as FIRST-LAST; level l has a stride of 2^l pixels."""
    pyramid_channels: PositiveInt = 256
    """Channels of every pyramid level."""
    p6_from: Literal["C5", "P5", "C5_linear"] = "C5"
    """Source of P6: C5 (the paper), P5 (torchvision's first version), C5 with no ReLU before P7 (mmdetection)."""
    head_channels: PositiveInt = 256
    """Channels of the convolutions in both subnets."""
    head_depth: NonNegativeInt = 4
    """3x3 convolutions in each subnet before the predicting one."""
    head_norm: Literal["none", "group"] = "none"
    """Normalisation after each subnet convolution; group norm lets narrow subnets learn from scratch."""
    head_init: Literal["paper", "scaled"] = "paper"
    """Subnet initialisation: N(0, .01) as in the paper, or He's for the hidden layers, which narrow towers need."""
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Foreground probability pi that every anchor starts with (section 4.1)."""
    channels_last: bool = True
    """Memory layout of the activations; faster on CPUs and on tensor cores."""

    @field_validator("backbone")
    @classmethod
    def _backbone(cls, value: str) -> str:
        if value in BACKBONES or value.removeprefix("hf:").strip() not in ("", value):
            return value
        near = difflib.get_close_matches(value, BACKBONES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"there is no such backbone{hint}; use one of {', '.join(BACKBONES)}, or hf:NAME or hf:FOLDER for one of "
            "transformers, such as hf:microsoft/resnet-50"
        )

    @field_validator("levels")
    @classmethod
    def _levels(cls, value: str) -> str:
        match = re.fullmatch(r"([2-5])-([5-9])", value.strip())
        if not match:
            raise ValueError("write FIRST-LAST with FIRST in 2..5 and LAST in 5..9, such as 3-7 or 2-6")
        return value.strip()

    @property
    def level_numbers(self) -> tuple[int, ...]:
        first, last = self.levels.split("-")
        return tuple(range(int(first), int(last) + 1))


class AnchorConfig(Group):
    """The reference boxes of every cell (section 4)."""

    sizes: tuple[PositiveFloat, ...] = ()
    """Side of the square anchor on each level; empty means 4 x stride: 32 64 128 256 512 on levels 3-7."""
    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    """Factors on the side."""
    ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Height over width; the area is kept."""
    auto: bool = False
    """Fit the sizes (and, where that is not enough, the ratios) to the training boxes before training starts."""
    offset: Literal["centre", "corner"] = "centre"
    """Where in its cell an anchor sits: the centre, or the upper left corner as torchvision and detectron2 have it."""
    round_sizes: bool = False
    """Round anchor corners to whole pixels, as torchvision does."""
    stride: Literal["exact", "floor_of_padded"] = "exact"
    """Distance of cells: 2^level, or floor(padded side / cells) as torchvision has it."""


class AssignmentConfig(Group):
    """Which anchor answers for which object (section 4)."""

    positive_iou: Fraction = 0.5
    """An anchor with at least this IoU with an object is assigned to it."""
    background_iou: Fraction = 0.4
    """Below this IoU with every object an anchor is background; between the two it is ignored."""
    low_quality: Literal["none", "authors", "all"] = "authors"
    """Best anchor of an object without a match: never used, kept only above `background_iou`, always used."""
    crowd_overlap: Fraction = 0.5
    """An anchor with this share of its area inside a crowd region is ignored unless positive."""
    padding: Literal["ignored", "background"] = "ignored"
    """What anchors centred on padding are."""


WITH_CLASS_ALPHA = ("balanced_cross_entropy", "focal", "focal_star")


class LossConfig(Group):
    """Classification and box loss (sections 3 and 4)."""

    name: Literal[
        "cross_entropy", "balanced_cross_entropy", "focal", "focal_star", "hinge", "quality_focal", "varifocal"
    ] = "focal"
    """Classification loss; cross_entropy, hinge and quality_focal have no alpha."""
    alpha: Fraction = 0.25
    """Weight of positives; background has 1 - alpha, so below .5 positives count LESS."""
    class_alpha: tuple[Fraction, ...] = ()
    """An alpha for each class, in the order of the classes, instead of the one for all."""
    balance: Literal["none", "inverse_frequency"] = "none"
    """`inverse_frequency` fits `class_alpha` to the training labels before training starts: rare classes count more."""
    gamma: Annotated[float, Field(ge=0, le=5)] = 2.0
    """Focusing parameter; 0 is cross entropy. FL* wants more than 0."""
    beta: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Shift of FL* (focal_star); the paper runs gamma 2, beta 1 and gamma 4, beta 0."""
    margin: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The p_t above which hinge costs nothing."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an assigned anchor's target that is spread over all classes; background stays 0."""
    mining: Literal["all", "ohem", "ohem_1_3", "ssd"] = "all"
    """Anchors that count: all (the paper), the hardest after NMS, the same at 1:3, SSD's hardest background."""
    mining_count: PositiveInt = 128
    """Anchors of a picture that ohem and ohem_1_3 keep."""
    mining_nms: Fraction = 0.5
    """Of two anchors that overlap more than this, ohem keeps the harder one."""
    mining_ratio: PositiveFloat = 3.0
    """Background anchors for each positive under ssd."""
    box: Literal["smooth_l1", "l1", "giou"] = "smooth_l1"
    """Box loss: smooth L1 or L1 on the four offsets, or 1 - GIoU of the boxes."""
    box_beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1 / 9
    """Where smooth L1 turns from square to linear; 1 in Fast R-CNN, 1/9 in the authors' code, 0 is L1."""
    box_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Factor on the box loss."""
    normaliser: Literal["batch", "image"] = "batch"
    """Divide by the assigned anchors of the whole batch, or of each image and average over images (the paper)."""


class DataConfig(Group):
    """How pictures become batches."""

    format: Literal["auto", "coco", "voc", "yolo", "csv"] = "auto"
    """Label format; `auto` looks at the folder."""
    train_split: str = "train"
    """Split to learn from."""
    val_split: str = "val"
    """Split to choose the best checkpoint and the threshold on; training goes on without one where there is none."""
    size: PositiveInt = 600
    """Pictures are resized so that the shorter side has this many pixels ..."""
    max_size: NonNegativeInt = 1000
    """... unless the longer side would exceed this; 0 means 5/3 of `size`."""
    pad_multiple: PositiveInt = 32
    """Padded sides are multiples of this; pictures of one padded shape make a batch."""
    horizontal_flip: Fraction = 0.5
    """Probability of a mirrored picture (the paper's only augmentation)."""
    vertical_flip: Fraction = 0.0
    """Probability of an upside-down picture: smears, aerial pictures."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees at random: smears, aerial pictures."""
    scale_jitter: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Range of a random factor on `size`, drawn for each picture."""
    colour_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random brightness, contrast and saturation."""
    crop: Fraction = 0.0
    """Probability of a random crop holding 30 to 100 % of each side."""
    workers: NonNegativeInt = 2
    """Processes that read pictures; 0 reads them in the training process. Never changes the result."""
    oversample: str = ""
    """File with a picture's path a line, such as hardest.txt of `foveal mine`: these are seen more often."""
    oversample_times: Annotated[int, Field(ge=2)] = 3
    """How many times as often."""
    skip_bad: bool = False
    """Train without the pictures and boxes that `inspect` complains of, instead of refusing; --skip-bad for short."""
    max_pixels: PositiveInt = 100_000_000
    """Pictures with more pixels are refused before they are decoded."""

    @field_validator("scale_jitter")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"write the smaller factor first, got {value[0]} {value[1]}")
        return value

    @property
    def longest(self) -> int:
        return self.max_size or round(self.size * 5 / 3)


class TrainConfig(Group):
    """Optimisation (section 4.1)."""

    steps: PositiveInt = 90_000
    """Optimiser steps."""
    minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Time budget, --minutes for short; the first steps are timed and `steps` is fixed once from it. 0 means none."""
    batch_size: PositiveInt = 16
    """Pictures of one optimiser step over all processes and micro-batches."""
    accumulate: PositiveInt = 1
    """Micro-batches that make one step; raise it when memory is short. Only trained batch norm notices."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: PositiveFloat = 0.01
    """Learning rate for `lr_batch` pictures a step."""
    lr_batch: NonNegativeInt = 16
    """Batch size that `lr` is meant for; lr is scaled by batch_size / lr_batch (its root for adamw). 0: unscaled."""
    backbone_lr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Factor on the learning rate of the backbone: below 1 keeps what a pretrained one knows."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; first beta of AdamW."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    """Weight decay; biases and norm parameters have none under AdamW."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """Learning rate over the run."""
    milestones: tuple[Fraction, ...] = (60 / 90, 80 / 90)
    """Shares of the run after which `step` divides the rate by 10."""
    warmup: NonNegativeInt = 500
    """Steps of linear warm-up, at most a tenth of the run ..."""
    warmup_start: Fraction = 1 / 3
    """... from this share of the rate."""
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the averaged weights that are evaluated and saved as best; 0 averages nothing."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the convolutions; losses are always float32."""
    recompute_backbone: bool = False
    """Compute the backbone twice and keep less of it (gradient checkpointing): less memory, the same gradients."""
    compile: bool = False
    """Pass the network through torch.compile: needs a C++ compiler, takes a minute first. Never the default."""
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations on the validation split; 0 means ten times over the run, less often where that would
    take more than a quarter of `minutes`."""
    checkpoint_every: NonNegativeInt = 0
    """Steps between checkpoints; 0 means as often as evaluations."""
    log_every: PositiveInt = 20
    """Steps between lines in metrics.jsonl."""
    patience: NonNegativeInt = 0
    """Evaluations without a better AP after which training stops; 0 never stops early."""
    tensorboard: bool = True
    """Write TensorBoard events into the run."""


class InferenceConfig(Group):
    """From outputs to detections (section 4.1)."""

    score_threshold: Fraction = 0.05
    """Scores below this are dropped when evaluating."""
    show_threshold: Fraction = 0.5
    """Scores below this are not shown to a person, where the run has no recommended threshold."""
    candidates_per_level: PositiveInt = 1000
    """Best (anchor, class) pairs kept on each level before boxes are decoded."""
    nms_iou: Fraction = 0.5
    """Of two boxes of one class that overlap more than this the lower score goes."""
    max_detections: PositiveInt = 100
    """Detections kept of a picture."""


class Config(Group):
    """Everything that defines a run. `Config()` is the paper's recipe."""

    model: ModelConfig = ModelConfig()
    anchors: AnchorConfig = AnchorConfig()
    assignment: AssignmentConfig = AssignmentConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    inference: InferenceConfig = InferenceConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from it."""
    version: Annotated[Literal[1], Suppress] = 1
    """Version of this schema; no flag, since there is nothing to choose."""

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        levels = self.model.level_numbers
        if self.anchors.sizes and len(self.anchors.sizes) != len(levels):
            raise ValueError(
                f"anchors.sizes has {counted(len(self.anchors.sizes), 'entry', 'entries')} for the {len(levels)} "
                f"levels {self.model.levels}: give one size a level, or none for "
                f"{' '.join(str(4 * 2**n) for n in levels)}"
            )
        if self.model.backbone.startswith("hf:") and self.model.weights not in ("imagenet", "none"):
            raise ValueError(
                f"model.weights is {self.model.weights} but model.backbone is {self.model.backbone}, which brings its "
                "own: set model.weights to imagenet (whatever the model publishes) or none; weights of yours are taken "
                "from a folder, model.backbone hf:FOLDER"
            )
        loss = self.loss
        if loss.name == "focal_star" and loss.gamma == 0:
            raise ValueError("loss.gamma is 0, and FL* (focal_star) divides by it: set loss.gamma to more than 0")
        if (loss.class_alpha or loss.balance != "none") and loss.name not in WITH_CLASS_ALPHA:
            raise ValueError(
                f"loss.class_alpha and loss.balance have no effect on {loss.name}: use them with one of "
                f"{', '.join(WITH_CLASS_ALPHA)}"
            )
        if loss.label_smoothing and loss.name in ("quality_focal", "varifocal"):
            raise ValueError(
                f"loss.label_smoothing has no effect on {loss.name}, whose targets are IoUs: set it to 0, or use "
                "another loss.name"
            )
        if loss.mining in ("ohem", "ohem_1_3") and loss.normaliser != "image":
            raise ValueError(
                f"loss.mining {loss.mining} divides by the anchors that it keeps in each picture: set "
                "loss.normaliser to image"
            )
        if loss.mining == "ohem_1_3" and loss.mining_count < 4:
            raise ValueError(
                f"loss.mining_count is {loss.mining_count}, and ohem_1_3 keeps one positive with three background "
                "anchors: set it to 4 or more"
            )
        if self.assignment.background_iou > self.assignment.positive_iou:
            raise ValueError(
                f"assignment.background_iou {self.assignment.background_iou} must not exceed assignment.positive_iou "
                f"{self.assignment.positive_iou}"
            )
        if self.data.train_split == self.data.val_split:
            raise ValueError(
                f"data.train_split and data.val_split are both {self.data.train_split!r}: weights and threshold must "
                "be chosen on other pictures than those that are learnt"
            )
        if self.train.compile and self.train.recompute_backbone and self.model.batch_norm == "trained":
            raise ValueError(
                "train.compile and train.recompute_backbone do not go together where model.batch_norm is trained: "
                "torch.compile cannot hold its statistics still the second time; set one of the two to false"
            )
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is not a multiple of train.accumulate "
                f"{self.train.accumulate}"
            )
        return self

    @property
    def anchor_sizes(self) -> tuple[float, ...]:
        """Side of the square anchor on each level."""
        return self.anchors.sizes or tuple(4.0 * 2**level for level in self.model.level_numbers)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def with_changes(self, changes: Mapping[str, Any]) -> Config:
        """A validated copy with nested or dotted `changes`: {"train.steps": 5} or {"train": {"steps": 5}}."""
        return build_config(_merge(self.model_dump(), _nested(changes)))


# Plain differences from the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # For CPUs and small sets.
    "light": {
        "model": {
            "backbone": "mobilenet_v2",
            "pyramid_channels": 96,
            "head_channels": 96,
            "head_depth": 2,
            "head_norm": "group",
            "head_init": "scaled",
        },
        "data": {"size": 320, "max_size": 544},
        "train": {
            "steps": 1000,
            "batch_size": 8,
            "optimiser": "adamw",
            "lr": 2e-3,
            "lr_batch": 8,
            "backbone_lr": 0.2,
            "weight_decay": 0.05,
            "schedule": "cosine",
            "warmup": 100,
            "clip": 10.0,
            "ema": 0.998,
        },
    },
}


class _Loader(yaml.SafeLoader):
    """PyYAML's; what Python makes nothing of (a 13th month, 5000 digits) is a YAMLError with a line here too."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else f"cannot be read as {node.tag}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None


def build_config(values: Mapping[str, Any], source: str = "") -> Config:
    """The validated config of nested `values`; raises ConfigError naming field, value and fix."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        where = f"{source}: " if source else ""
        raise ConfigError("\n".join(where + line for line in explain_all(error).splitlines())) from None


def preset(name: str) -> Config:
    """The config of a preset: `paper` or `light`."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"no preset is called {name!r}: use one of {', '.join(PRESETS)}{hint}")
    return build_config(PRESETS[name])


def starting_config(name: str | None, run: Path | None = None) -> Config:
    """The preset's config; where none is named that of `run`, a folder to go on with, or of `light`."""
    if name is None and run is not None and (run / "config.yaml").is_file():
        return load_config(run / "config.yaml")
    return preset(name or "light")


def load_config(path: str | Path, base: Config | None = None) -> Config:
    """Reads a YAML file as changes to `base` (default: the defaults)."""
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply; write lines such as 'seed: 1'") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, not settings; write lines such as 'seed: 1'")
    return build_config(_merge((base or Config()).model_dump(), _nested(values)), source=str(path))


def differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every field that differs."""
    flat_old, flat_new = _flat(old.model_dump()), _flat(new.model_dump())
    return [(name, value, flat_new[name]) for name, value in flat_old.items() if value != flat_new[name]]


def field_names() -> list[str]:
    """The dotted name of every setting."""
    return list(_flat(Config().model_dump()))


def nearest_name(name: str) -> str | None:
    """The setting whose dotted name is closest to `name`, if any is close."""
    names = field_names()
    close = difflib.get_close_matches(name, names, 1, 0.6)
    last = name.split(".")[-1]
    return close[0] if close else next((n for n in names if n.split(".")[-1] == last), None)


def explain(error: dict[str, Any]) -> str:
    """One pydantic error as a line that names the field, what is wrong and the value."""
    name = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
    if error["type"] == "extra_forbidden":
        near = nearest_name(name)
        return f"{name}: there is no such setting" + (f"; did you mean {near}?" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    if not name:
        return message
    got = "" if isinstance(error["input"], Mapping | Group) else f" (got {error['input']!r})"
    return f"{name}: {message[0].lower() + message[1:]}{got}"


def explain_all(error: ValidationError) -> str:
    """A line for each fault of a config or of one of its groups, whose settings get the group's name."""
    groups = {str(getattr(f.annotation, "__name__", "")): name for name, f in Config.model_fields.items()}
    group = groups.get(error.title)
    prefix = () if group is None else (group,)
    return "\n".join(explain({**one, "loc": (*prefix, *one["loc"])}) for one in error.errors())


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = _nested(value)
        *parents, last = str(name).split(".")
        wrapped: Any = {last: value}
        for parent in reversed(parents):
            wrapped = {parent: wrapped}
        nested = _merge(nested, wrapped)
    return nested


def flat_settings(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name."""
    return _flat(config.model_dump())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
