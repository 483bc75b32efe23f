"""The part of the Hugging Face hub's HTTP interface that huggingface_hub uses for models, in memory, for tests.

Repositories, revisions, tokens, regular and large files (git LFS's basic transfer), and the hub's own error codes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_alice"
READ_ONLY = "hf_bob"
OWNERS = {TOKEN: "alice", READ_ONLY: "bob"}


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha


@dataclass
class Hub:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    claimed: dict[str, int] = field(default_factory=dict)
    """Sizes that listings claim of files, in place of the true ones."""
    down: bool = False
    after_listing: list[Callable[[], object]] = field(default_factory=list)
    """What happens, one at a time, between an answer that lists files and the next request."""

    def files(self, name: str) -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.branches["main"]]


class Answer(Exception):  # noqa: N818 (a way out of a handler)
    def __init__(self, status: int, body: Any = None, **headers: str):
        self.status, self.body, self.headers = status, body, headers


def refusal(status: int, code: str) -> Answer:
    return Answer(status, {"error": code}, **{"X-Error-Code": code})


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.hub.down:
                raise Answer(503, {"error": "down"})
            for method, pattern, act in ROUTES:
                if self.command in method and (found := re.fullmatch(pattern, path)):
                    act(self, *found.groups())
            raise Answer(404, {"error": f"the stand-in knows no {self.command} {path}"})
        except Answer as answer:
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    @property
    def who(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in OWNERS:
            raise Answer(401, {"error": "bad"}, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        return OWNERS.get(token)

    def readable(self, name: str, revision: str | None = None) -> tuple[Repository, str]:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.who != name.split("/")[0]):
            raise refusal(404 if self.who else 401, "RepoNotFound")
        if repository.gated and self.who is None:
            raise refusal(401, "GatedRepo")
        sha = repository.branches.get(revision or "main", revision or "")
        if sha not in repository.commits and (revision or repository.commits):
            raise refusal(404, "RevisionNotFound")
        return repository, sha

    def writable(self, name: str) -> Repository:
        if self.who != name.split("/")[0]:
            raise Answer(403, {"error": "You don't have the rights to write here"})
        return self.readable(name)[0]

    def info(self, name: str, revision: str | None = None) -> None:
        repository, sha = self.readable(name, revision)
        files = repository.commits.get(sha, {})
        siblings = [{"rfilename": path, "size": self.size(path, data), "blobId": "0"} for path, data in files.items()]
        if self.hub.after_listing:
            self.hub.after_listing.pop(0)()
        raise Answer(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

    def size(self, path: str, data: bytes) -> int:
        return self.hub.claimed.get(path, len(data))

    def tree(self, name: str, revision: str) -> None:
        repository, sha = self.readable(name, revision)
        files = repository.commits.get(sha, {})
        raise Answer(
            200,
            [{"type": "file", "path": path, "size": len(data), "oid": oid(data)} for path, data in files.items()],
        )

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository, sha = self.readable(name, revision)
        if path not in repository.commits[sha]:
            raise refusal(404, "EntryNotFound")
        data = repository.commits[sha][path]
        raise Answer(200, data, **{"ETag": f'"{oid(data)}"', "X-Repo-Commit": sha})

    def create(self) -> None:
        wanted = json.loads(self.sent)
        name = f"{wanted['organization']}/{wanted['name']}"
        if self.who != wanted["organization"]:
            raise Answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.hub.repositories:
            raise Answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        self.hub.repositories[name] = Repository(private=wanted.get("visibility") == "private")
        self.hub.repositories[name].commit({})
        raise Answer(200, {"url": f"{self.hub.url}/{name}"})

    def validate(self) -> None:
        licence = re.search(r"^license: (.*)$", json.loads(self.sent)["content"], re.M)
        if licence and licence[1] != licence[1].lower():
            raise Answer(400, {"errors": [{"message": '"license" must be one of [apache-2.0, mit, ...]'}]})
        raise Answer(200, {"errors": [], "warnings": []})

    def preupload(self, name: str) -> None:
        self.writable(name)
        raise Answer(
            200,
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(self.sent)["files"]
                ]
            },
        )

    def batch(self, name: str) -> None:
        self.writable(name)
        objects = [
            {**wanted, "authenticated": True, "actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}}
            for wanted in json.loads(self.sent)["objects"]
        ]
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def store(self, sha256: str) -> None:
        assert hashlib.sha256(self.sent).hexdigest() == sha256
        self.hub.large[sha256] = self.sent
        raise Answer(200, {})

    def commit(self, name: str) -> None:
        repository = self.writable(name)
        files = dict(repository.commits[repository.branches["main"]])
        for line in self.sent.splitlines():
            key, value = json.loads(line)["key"], json.loads(line)["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        raise Answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (("GET",), rf"/api/models/{NAME}", Handler.info),
    (("GET",), rf"/api/models/{NAME}/revision/(.+)", Handler.info),
    (("GET",), rf"/api/models/{NAME}/tree/([^/]+)", Handler.tree),
    (("GET", "HEAD"), rf"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    (("POST",), r"/api/repos/create", Handler.create),
    (("POST",), r"/api/validate-yaml", Handler.validate),
    (("POST",), rf"/api/models/{NAME}/preupload/main", Handler.preupload),
    (("POST",), rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), r"/large/(\w+)", Handler.store),
    (("POST",), rf"/api/models/{NAME}/commit/main", Handler.commit),
]


def oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Server:
    """A hub on a port of its own, as a context."""

    def __enter__(self) -> Hub:
        handler = type("OwnHandler", (Handler,), {"hub": (hub := Hub())})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        hub.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return hub

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
