"""Tiny models of transformers as folders with random weights: what `hf:FOLDER` reads, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

TINY: dict[str, Any] = {
    "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "convnext": transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "swin": transformers.SwinConfig(embed_dim=8, depths=[2, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4),
    "dinov2": transformers.Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56),
    "vitdet": transformers.VitDetConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=64, window_size=3,
        window_block_indices=[0, 2],
    ),
    "short": transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 2], window_size=4),
    "bert": transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8),
    "vitpose": transformers.VitPoseBackboneConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
}  # fmt: skip


def folder_of(
    kind: str, root: Path, pixels: dict[str, Any] | None = None, weights: bool = False, **changes: Any
) -> str:
    """Writes a model's folder below `root` and returns the `hf:` name of it; `changes` are of its configuration."""
    folder = root / kind
    config = type(TINY[kind]).from_dict({**TINY[kind].to_dict(), **changes})
    if weights:
        transformers.logging.disable_progress_bar()
        torch.manual_seed(7)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    if pixels is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return f"hf:{folder}"
