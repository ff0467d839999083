"""A package index on this machine: lists one file as HTML or JSON and serves it, well or with a fault."""

import hashlib
import io
import json
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.models.package_index import Release
from bench.tasks.index import ARCHIVE, FILES, RELEASE, Member

MOVIES = (
    "1\t2.5\tA charming film &amp; a warm one.\r\n2\t-0.4\tNeither good nor bad\r\n3\t-1.5\tdull and ''long''\r\n"
    + "".join(f"{n}\t{(-1) ** n * 1.25}\tfilm number {n} of many\r\n" for n in range(4, 60))
    + "60\t0.5\tTouché!"
).encode()


def tar(files):
    """A gzipped tar archive of ``files`` (name -> content), the same bytes each time."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def small_sdist(texts=MOVIES):
    """The source distribution with four small files of ratings, and a ``setup.py`` that must never run."""
    inner = tar({"hutto_ICWSM_2014/_README_.txt": b"x" * 100} | {member.name: texts for member in FILES.values()})
    stop = b"raise SystemExit('setup.py was run')\n"
    return tar({"vaderSentiment-3.3.2/setup.py": stop, "../outside": b"", ARCHIVE.name: inner}), inner


def pin(monkeypatch, content, inner=b"", texts=MOVIES):
    """Let the harness expect ``content`` in place of the real distribution."""

    def sha256(data):
        return hashlib.sha256(data).hexdigest()

    release = Release(project=RELEASE.project, file=RELEASE.file, sha256=sha256(content), size=len(content))
    monkeypatch.setattr("bench.tasks.index.RELEASE", release)
    monkeypatch.setattr("bench.tasks.index.ARCHIVE", Member(ARCHIVE.name, sha256(inner)))
    for task, member in FILES.items():
        monkeypatch.setitem(FILES, task, Member(member.name, sha256(texts)))
    return release


class Index(ThreadingHTTPServer):
    """Serves ``content`` as the one file; ``faults`` says by ``page`` or ``file`` what goes wrong with it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, content, form):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content, self.form = content, form
        self.faults = {}
        self.asked = []
        self.secrets = []
        self.listed = None
        """Hash that the page names; that of the content where None."""
        self.closing = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/simple"


@contextmanager
def serving(content, form="json"):
    """An index of ``content`` until the block ends."""
    index = Index(content, form)
    thread = threading.Thread(target=index.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        index.closing.set()
        index.shutdown()
        index.server_close()
        thread.join()


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.secrets.append(self.headers.get("Authorization"))
        part = "page" if self.path == "/simple/vadersentiment/" else "file"
        if part == "file" and self.path != f"/files/{RELEASE.file}":
            return self._send(404, b"", "text/plain")
        fault = self.server.faults.get(part)
        if fault == "hang":
            self.server.closing.wait()
        elif isinstance(fault, int):
            self._send(fault, b"as the test asked", "text/plain")
        elif isinstance(fault, bytes):
            self._send(200, fault, "application/json" if fault[:1] == b"{" else "text/html")
        elif part == "page":
            self._send(200, *self._page())
        else:
            half = len(self.server.content) // 2 if fault == "truncated" else None
            self._send(200, self.server.content[:half], "application/octet-stream", len(self.server.content))

    def log_message(self, *_):
        pass

    def _page(self):
        sha256 = self.server.listed or hashlib.sha256(self.server.content).hexdigest()
        others = ("vaderSentiment-3.3.1.tar.gz", "vaderSentiment-3.3.2-py2.py3-none-any.whl")
        if self.server.form == "json":
            files = [{"filename": name, "url": f"/files/{name}", "hashes": {}} for name in others]
            files.append({"filename": RELEASE.file, "url": f"../../files/{RELEASE.file}", "hashes": {"sha256": sha256}})
            return json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode(), JSON
        links = "".join(f'<a href="/files/{name}">{name}</a><br>' for name in others)
        ours = f'<a href="../../files/{RELEASE.file}#sha256={sha256}" data-requires-python="&gt;=3">{RELEASE.file}</a>'
        return f"<!DOCTYPE html><html><body>{links}{ours}</body></html>".encode(), "text/html"

    def _send(self, status, content, kind, length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)


JSON = "application/vnd.pypi.simple.v1+json"
