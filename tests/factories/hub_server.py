"""A small model and data hub on this machine: answers what ``huggingface_hub`` and ``datasets`` ask, from a folder."""

import hashlib
import json
import re
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = {".parquet", ".safetensors"}
"""Files that the hub keeps in a store of its own, to which it redirects: another host, as ``localhost`` is here."""


class Hub(ThreadingHTTPServer):
    """Serves ``root/{datasets,models}/owner/name/revision``; every request is noted, and some may be answered badly."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root = root
        self.asked: list[str] = []
        """Every request so far: ``GET /api/datasets/...``."""
        self.faults: list[tuple[str, str]] = []
        """Pattern of a request and what goes wrong with it: a status code, ``truncated`` or ``hang``."""
        self.closing = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, request: str) -> str | None:
        return next((fault for pattern, fault in self.faults if re.search(pattern, request)), None)


@contextmanager
def serving(root: Path):
    """A hub that answers from ``root`` until the block ends."""
    hub = Hub(root)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Answer(BaseHTTPRequestHandler):
    """Routes of the hub's API that a download uses, for models and datasets alike."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        pass

    def _answer(self) -> None:
        request = f"{self.command} {urllib.parse.unquote(self.path)}"
        self.server.asked.append(request)
        self.fault = self.server.fault(request)
        if self.fault == "hang":
            self.server.closing.wait()
            self.close_connection = True
        elif self.fault and self.fault.isdigit():
            self._json({"error": "as the test asked"}, int(self.fault))
        else:
            self._route(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/"))

    def _route(self, path: str) -> None:
        api = re.fullmatch(r"api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path)
        file = re.fullmatch(r"(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            self._about(*api.groups())
        elif path.startswith("store/"):
            self._send(200, (self.server.root / path.removeprefix("store/")).read_bytes(), {"Accept-Ranges": "bytes"})
        elif file:
            kind, name, revision, inside = file.groups()
            self._file((kind or "models/").strip("/"), name, revision, inside)
        else:
            self._json({"error": f"no such route: {path}"}, 404)

    def _folder(self, kind: str, name: str, revision: str | None) -> Path | None:
        """Folder of a repository's revision; its error is sent where there is none. ``main`` is the last by name."""
        revisions = sorted((self.server.root / kind / name).glob("*"))
        if not revisions:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return None
        found = [r for r in revisions if r.name == revision] or (revisions[-1:] if revision in {None, "main"} else [])
        if not found:
            self._json({"error": f"Invalid rev id: {revision}"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return found[0]

    def _about(self, kind: str, name: str, what: str | None, revision: str | None, inside: str | None):
        folder = self._folder(kind, name, revision)
        if folder is None:
            return
        if what == "tree":
            home = folder / (inside or "")
            recursive = "recursive=true" in self.path.lower() or "recursive=1" in self.path
            paths = sorted(home.rglob("*") if recursive else home.iterdir()) if home.is_dir() else []
            self._json([_entry(path, folder) for path in paths], 200 if home.is_dir() else 404)
        else:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
            self._json({
                "id": name, "sha": folder.name, "private": False, "disabled": False, "gated": False, "downloads": 0,
                "likes": 0, "tags": [], "siblings": siblings, "lastModified": "2024-01-01T00:00:00.000Z",
            })  # fmt: skip

    def _file(self, kind: str, name: str, revision: str, inside: str) -> None:
        folder = self._folder(kind, name, revision)
        if folder is None:
            return
        path = folder / inside
        commit = {"X-Repo-Commit": folder.name}
        if not path.is_file():
            self._json({"error": "Entry not found"}, 404, commit | {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if path.suffix in LARGE:
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
            inside = path.relative_to(self.server.root).as_posix()
            place = f"http://localhost:{self.server.server_address[1]}/store/{inside}"
            self._send(302, b"", commit | linked | {"Location": place})
        else:
            self._send(200, content, commit | {"ETag": etag, "Accept-Ranges": "bytes"})

    def _json(self, value, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        start, end = 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and status == 200:
            status, start, end = 206, int(asked[1]), min(end, int(asked[2] or end) + 1)
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command != "HEAD":
            part = content[start:end]
            self.wfile.write(part[: len(part) // 2] if self.fault == "truncated" else part)
        if self.fault == "truncated":
            self.close_connection = True


def _entry(path: Path, folder: Path) -> dict[str, object]:
    """A file or a folder as the hub lists it."""
    inside = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": inside}
    content = path.read_bytes()
    return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": inside}
