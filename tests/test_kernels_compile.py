"""The Triton kernels compile for cards that are not here: what can be known of them without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is Linux's; CUDA builds of torch bring it along")

# A process of its own: this one may have Triton's interpreter.
COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from foveal import matching_kernels
from foveal.losses import loss_kernels

def ptx(kernel, types, values, fused, capability=90):
    types = types | dict.fromkeys(values, "constexpr")
    names = list(types)
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name][0] == "*"}
    aligned |= {(names.index(n),): [["tt.divisibility", 16]] for n in ("elements", "label_stride") if n in names}
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in values.items()}, aligned)
    made = compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": fused})
    return made.asm["ptx"]
"""
LOSS = """
def loss(dtype, capability=90, **changed):
    types = dict(logits="*" + dtype, labels="*i16", alphas="*fp32", scales="*fp32", done="*fp32", gradients="*" + dtype,
        partials="*fp32", elements="i32", label_stride="i32", inner="i32", alpha_positive="fp32",
        alpha_background="fp32", beta="fp32", margin="fp32", smoothing="fp32")
    values = dict(LOSS="focal", GAMMA=2.0, CLASSES=80, CHANNELS_LAST=True, PER_CLASS=False, SMOOTHED=False,
        GRADIENT=True, AGAIN=False, PTX=True, NEAR=32, BLOCK=2048)
    return ptx(loss_kernels.loss_kernel, types, values | changed, True, capability)
"""
MATCHING = """
types = dict(anchors="*fp32", boxes="*fp32", crowd="*i1", starts="*i32", limits="*fp32", best="*i32")
print(ptx(matching_kernels.best_kernel, types | dict(num_anchors="i32"), dict(BLOCK=256), False))
types |= dict(labels="*i32", num_anchors="i32", positive_iou="fp32", background_iou="fp32", crowd_overlap="fp32")
values = dict(LOW_QUALITY="all", PADDING_IGNORED=True, BLOCK=256)
print(ptx(matching_kernels.label_kernel, types, values, False))
"""


def compiled(script: str, cache: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(cache)}
    ran = subprocess.run(
        [sys.executable, "-c", COMPILE + script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_logits_are_read_and_gradients_written_16_bytes_at_a_time_and_once(tmp_path: Path) -> None:
    both = compiled(LOSS + "print(loss('bf16'), loss('fp32'), sep='NEXT')", tmp_path).split("NEXT")
    # 2048 logits over 128 threads: 32 bytes a thread of bfloat16, 64 of float32.
    for code, pieces in zip(both, (2, 4), strict=True):
        assert len(re.findall(r"ld\.global[.\w]*\.v4", code)) == pieces
        assert len(re.findall(r"st\.global[.\w]*\.v4", code)) == pieces


@pytest.mark.slow
def test_every_way_through_the_loss_compiles(tmp_path: Path) -> None:
    script = LOSS + (
        "print(len(loss('fp16', 80, LOSS='hinge', SMOOTHED=True, AGAIN=True)))\n"
        "print(len(loss('bf16', 80, LOSS='focal_star', CHANNELS_LAST=False, GRADIENT=False)))\n"
        "print(len(loss('fp32', 100, GAMMA=.5, PER_CLASS=True, LOSS='balanced_cross_entropy')))\n"
    )
    assert all(int(length) > 1000 for length in compiled(script, tmp_path).split())


@pytest.mark.slow
def test_matching_has_no_fused_multiply_add_and_divides_exactly(tmp_path: Path) -> None:
    code = compiled(MATCHING, tmp_path)
    assert "fma" not in code
    assert set(re.findall(r"div\.\w+\.f32", code)) == {"div.rn.f32"}
