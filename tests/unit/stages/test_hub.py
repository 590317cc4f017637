"""Pushing through huggingface_hub's own client to a stand-in of the hub on the loopback."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from hornet.cli.export import main
from hornet.config import ConfigError, build_config
from hornet.errors import UserError
from hornet.stages.config import ExportConfig
from hornet.stages.hub import push, require_login

TOKEN = "hf_standin"


class Hub(ThreadingHTTPServer):
    """Takes one repository's commits; keeps what was asked and what arrived."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[str] = []
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    """What the hub's API answers, as far as a push of small files asks."""

    server: Hub

    def do_GET(self) -> None:
        self.answer({"name": "user", "type": "user"})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            self.server.created = json.loads(text)
            self.answer({"url": f"{self.server.endpoint}/user/tiny"})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(text)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.endpoint}/user/tiny/commit/{'a' * 40}"
            self.answer({"success": True, "commitOid": "a" * 40, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer({"errors": [], "warnings": []})

    def answer(self, value: dict[str, Any]) -> None:
        self.server.asked.append(self.path)
        is_known = self.headers["Authorization"] == f"Bearer {TOKEN}"
        body = json.dumps(value if is_known else {"error": "Invalid username or password."}).encode()
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("---\nlibrary_name: timm\n---\n# tiny\n")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)))
    return tmp_path


@pytest.mark.parametrize("public", [False, True])
def test_the_folder_arrives_as_it_is(hub: Hub, folder: Path, public: bool) -> None:
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    require_login(api)
    assert hub.asked == ["/api/whoami-v2"], "nothing is made before the export"
    url = push(folder, "user/tiny", public=public, api=api)
    assert url.endswith(f"/user/tiny/commit/{'a' * 40}")
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (hub.created["organization"], hub.created["name"]) == ("user", "tiny")
    assert hub.created["visibility"] == ("public" if public else "private")


def test_whom_the_hub_does_not_know(hub: Hub, folder: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token="hf_wrong")
    with pytest.raises(
        UserError, match=r"^push_to: http://127\.0\.0\.1:\d+ refuses; or leave push_to out \(.*token"
    ) as no:
        require_login(api)
    assert "\n" not in str(no.value)
    with pytest.raises(UserError, match=r"refuses; .* is complete: `hf upload user/tiny .*` pushes it later"):
        push(folder, "user/tiny", public=False, api=api)
    assert not hub.files


def test_offline_and_logged_out_are_one_sentence(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(UserError, match=r"nobody is logged in to http.*; run `hf auth login`, or leave push_to out"):
        require_login(HfApi(endpoint=hub.endpoint))
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)  # the port that discards: nobody listens
    with pytest.raises(
        UserError, match=r"http://127\.0\.0\.1:9 cannot be reached \(.*\); go online, or leave push_to out"
    ):
        require_login(nowhere)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="push_to: HF_HUB_OFFLINE forbids any connection; unset it, or leave push_to out"
    ):
        require_login(HfApi(endpoint=hub.endpoint, token=TOKEN))
    with pytest.raises(UserError, match="push_to: HF_HUB_OFFLINE forbids any connection"):
        require_login(HfApi(endpoint=hub.endpoint))


def test_settings_are_checked_before_anything_else(tmp_path: Path) -> None:
    values = {"source": tmp_path, "output": tmp_path / "out", "image_size": 32}
    with pytest.raises(ConfigError, match="push_to: 'tiny' is no USER/NAME"):
        build_config(ExportConfig, {**values, "push_to": "tiny"}, source="x", problems=[])
    with pytest.raises(ConfigError, match="push_public: has no effect without push_to"):
        build_config(ExportConfig, {**values, "push_public": True}, source="x", problems=[])


def test_the_command_ends_before_the_export_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04")  # no weight file, which an export would say
    command = ["export.py", str(tmp_path / "x.pth"), str(tmp_path / "out"), "image_size=32", "push_to=me/tiny"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = "push_to: HF_HUB_OFFLINE forbids any connection; unset it, or leave push_to out"
    assert capsys.readouterr().err.strip().endswith(told)
    assert not (tmp_path / "out").exists()
