"""`weightgen push` against a server on this machine that speaks the hub's protocol, and what it refuses."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from tiny_runs import refuse, succeed

from weightgen import WeightGenerationPipeline, hub, load_head
from weightgen.errors import InputError


class HubServer(ThreadingHTTPServer):
    """Takes commits, without large files, and gives what it has taken."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.created: dict = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.server.created = json.loads(content)
            return self.answer({"url": f"{self.server.address}/me/birds", "name": "me/birds"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            names = [one["path"] for one in json.loads(content)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer({"files": modes})
        assert self.path == "/api/models/me/birds/commit/main"
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer({"commitUrl": f"{self.server.address}/me/birds/commit/0", "commitOid": "0" * 40})

    def do_GET(self) -> None:
        self.answer({"sha": "0" * 40, "id": "me/birds", "siblings": []})

    def answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def pushed(*arguments: str | Path) -> dict:
    """What the command says."""
    return json.loads(succeed("push", *arguments, "--format", "json").stdout)


def written(server: HubServer, folder: Path) -> Path:
    for name, content in server.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_head_is_pushed_with_its_card(server: HubServer, trained: Path, pictures: Path, tmp_path: Path) -> None:
    succeed(
        "generate", "--generator", trained, "--support", pictures / "support", "--out", tmp_path / "birds", "--quiet"
    )
    printed = pushed(tmp_path / "birds", "me/birds", "--private", "--license", "apache-2.0")
    assert printed["kind"] == "head" and printed["address"].endswith("me/birds")
    assert server.created.get("visibility") == "private" or server.created.get("private")  # of older clients
    there = load_head(written(server, tmp_path / "there"))
    assert there.class_names == load_head(tmp_path / "birds").class_names
    assert server.files["README.md"].startswith(b"---\nlicense: apache-2.0\n")
    assert b"Leave-one-out: " in server.files["README.md"]


def test_a_run_is_pushed_with_recipe_and_report_and_without_paths(
    server: HubServer, trained: Path, tmp_path: Path
) -> None:
    assert pushed(trained, "me/birds")["kind"] == "generator"
    WeightGenerationPipeline.from_pretrained(written(server, tmp_path / "there"))
    card = server.files["README.md"].decode()
    assert 'from_pretrained("hf-hub:me/birds")' in card
    assert ("raw_centroid" in card) is (trained / "report" / "results.json").exists()
    assert server.files["recipe.yaml"].decode() in card


def test_what_cannot_be_pushed_is_refused_in_one_line(
    trained: Path, tmp_path: Path, hub_calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "is not a directory" in refuse("push", tmp_path / "none", "me/birds")
    assert "is a generator, not a head" in refuse("push", trained / "generator", "me/birds")
    assert "not one of the hub's identifiers" in refuse("push", trained, "me/birds", "--license", "mine\n---")
    for name in ("/", "bad name/x y"):
        assert f"{name!r} is not the name of a repository" in refuse("push", trained, name)
    assert hub_calls == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refuse("push", trained, "me/birds") == "me/birds: cannot be pushed while HF_HUB_OFFLINE is set; unset it"
    assert hub_calls == []


def test_a_hub_that_refuses_is_one_line(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, **_: object) -> None:
            pass

        def create_repo(self, *_: object, **__: object) -> None:
            raise RuntimeError("401 Client Error.\n\nInvalid username")

    monkeypatch.setattr(hub, "HfApi", Refusing)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    complaint = refuse("push", trained, "me/birds")
    assert complaint.startswith("me/birds: cannot be pushed (401 Client Error. Invalid username); check the connection")


def test_a_head_on_the_hub_is_fetched_once_and_a_missing_one_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, *, revision: str | None) -> str:
        asked.append((name, revision))
        if name == "me/none":
            raise RuntimeError("404 Client Error")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert hub.local_folder("hf-hub:me/birds@v1") == tmp_path
    assert hub.local_folder("me/birds") == Path("me/birds")
    with pytest.raises(InputError, match=r"hf-hub:me/none: cannot be fetched \(404 Client Error\)"):
        load_head("hf-hub:me/none")
    assert asked == [("me/birds", "v1"), ("me/none", None)]
