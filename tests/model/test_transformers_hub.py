"""`hf:OWNER/NAME` against a stand-in of the Hugging Face hub on this machine: no network beyond it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file
from tiny_transformers import folder_of

PROGRAM = """
import sys
from safetensors.torch import load_file
from foveal.errors import WeightsError
from foveal.model.transformers_backbone import TransformersBackbone
from foveal.model.transformers_files import describe
tensors = load_file(sys.argv[1])
for name in sys.argv[2:]:
    try:
        backbone = TransformersBackbone(describe(name), "trained", 0, 3)
        backbone.load_published()
        state = {key.removeprefix("resnet."): value for key, value in backbone.model.state_dict().items()}
        print(backbone.pixel_mean[0], all(state[key].equal(value) for key, value in tensors.items() if key in state))
    except WeightsError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Files below `root`/OWNER/NAME as the hub hands them out; 404 with the hub's codes for the rest."""

    root: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        owner_and_name, _, rest = self.path.lstrip("/").partition("/resolve/")
        file = self.root / owner_and_name / rest.partition("/")[2]
        known = (self.root / owner_and_name).is_dir() and rest
        content = file.read_bytes() if known and file.is_file() else b""
        self.send_response(200 if content else 404)
        if not content:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path):
    handler = type("ThisHub", (Hub,), {"root": tmp_path / "hub"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def said(hub: str, names: list[str], tmp_path: Path, **more: str) -> list[str]:
    """What the program says of each name, in a process of its own with an empty cache or what was left in it."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "hub" / "half" / "resnet" / "model.safetensors"), *names]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_model_of_the_hub_is_downloaded_once_and_what_is_not_there_is_a_sentence(hub, tmp_path):
    folder_of("resnet", tmp_path / "hub" / "half", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, weights=True)
    folder_of("resnet", tmp_path / "hub" / "plain", weights=True)
    folder_of("resnet", tmp_path / "hub" / "old", weights=True)
    old = tmp_path / "hub" / "old" / "resnet"
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    folder_of("resnet", tmp_path / "hub" / "bare")
    names = ["hf:half/resnet", "hf:plain/resnet", "hf:half/nothing", "hf:old/resnet", "hf:bare/resnet"]
    first = said(hub, names, tmp_path)
    assert first[:2] == ["0.5 True", "0.485 True"]
    assert first[2].startswith("model.backbone hf:half/nothing: half/nothing is not a local folder")
    assert first[2].endswith("check the name, or take another model")
    assert first[3] == "0.485 True"
    assert "hf:bare/resnet: publishes no model.safetensors and no pytorch_model.bin" in first[4]
    again = said("http://127.0.0.1:9", names, tmp_path, HF_HUB_OFFLINE="1")
    assert again[:2] == first[:2]
    assert "the Hugging Face hub cannot be reached" in again[2]
    assert again[3:] == first[3:]
