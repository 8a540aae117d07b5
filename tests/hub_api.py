"""The Hugging Face hub's API on loopback: as much of it as a download of a model asks for.

    with HubApi({"org/name": folder}) as hub:       # HF_ENDPOINT=hub.url

A model's only commit is a hash of its files; `main` names it. `asked` has every request as
(method, path, the Range that it asked for). `stall_after` bytes of a file, its connection hangs.
"""

import functools
import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"


class HubApi:
    """`status` maps a model to what is answered instead: 401, 403 or 404. `token` is the only one
    that is accepted, where one is sent."""

    def __init__(self, models: Mapping[str, Path], token: str = TOKEN) -> None:
        self.models = dict(models)
        self.token = token
        self.status: dict[str, int] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def commit(self, model: str) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, file in self.files(model).items():
            digest.update(name.encode() + sha256(file).encode())
        return digest.hexdigest()

    def files(self, model: str) -> dict[str, Path]:
        root = self.models[model]
        return {
            str(file.relative_to(root)): file for file in sorted(root.rglob("*")) if file.is_file()
        }

    def bytes_asked_of(self, name: str) -> list[str]:
        """The ranges in which a file was fetched; "" is the whole."""
        return [wanted for method, path, wanted in self.asked if method == "GET" and name in path]

    def wait(self, seconds: float = 600) -> None:
        """Holds a connection that stalls, until the server closes."""
        self.stalled.set()
        self._closing.wait(seconds)


def sha256(file: Path) -> str:
    state = file.stat()
    return _sha256(file, state.st_mtime_ns, state.st_size)


def facts(name: str, file: Path) -> dict[str, Any]:
    """What the hub says of a file: by what it can be told apart, large ones by their own hash."""
    body = file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
    lfs = {"size": len(body), "sha256": sha256(file), "pointerSize": 134}
    is_large = file.suffix == ".safetensors"
    return {"rfilename": name, "size": len(body), "blobId": blob} | (
        {"lfs": lfs} if is_large else {}
    )


@functools.cache
def _sha256(file: Path, _changed: int, _size: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _handler(hub: HubApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range", "")))
            parts = path.strip("/").split("/")
            is_info = parts[:2] == ["api", "models"]
            model = "/".join(parts[2:4] if is_info else parts[:2])
            given = self.headers.get("Authorization", f"Bearer {hub.token}")
            refused = hub.status.get(model)
            if given != f"Bearer {hub.token}":
                return self._refuse(401, "", "Invalid credentials in Authorization header")
            if refused == 403:
                return self._refuse(403, "GatedRepo", "")
            if refused or model not in hub.models:
                return self._refuse(refused or 404, "RepoNotFound", "")
            commit = hub.commit(model)
            revision = parts[5] if is_info and len(parts) > 5 else parts[3]
            if revision not in ("main", commit) and not (is_info and len(parts) < 6):
                return self._refuse(404, "RevisionNotFound", "")
            if is_info:
                siblings = [facts(name, file) for name, file in hub.files(model).items()]
                return self._json({"id": model, "sha": commit, "siblings": siblings})
            return self._file(hub.files(model).get("/".join(parts[4:])), commit, with_body)

        def _refuse(self, status: int, code: str, message: str) -> None:
            self._head(status, 0, {"X-Error-Code": code, "X-Error-Message": message})

        def _json(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self._head(200, len(body), {"Content-Type": "application/json"})
            self.wfile.write(body)

        def _file(self, file: Path | None, commit: str, with_body: bool) -> None:
            if file is None:
                return self._refuse(404, "EntryNotFound", "")
            body = file.read_bytes()
            etag = f'"{sha256(file)}"'
            heads = {"ETag": etag, "X-Repo-Commit": commit}
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            if start:
                heads["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._head(206 if start else 200, len(body) - start, heads)
            if not with_body:
                return None
            limit = hub.stall_after
            if limit is not None and len(body) - start > limit:
                self.wfile.write(body[start : start + limit])
                self.wfile.flush()
                hub.wait()
                self.close_connection = True
                return None
            self.wfile.write(body[start:])
            return None

        def _head(self, status: int, length: int, heads: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**heads, "Content-Length": str(length)}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()

    return Handler
