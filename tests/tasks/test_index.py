"""Rated sentences come from the package index that pip is set up for, by hash, once; a fault is one sentence."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.models import package_index
from bench.models.hub import OFFLINE_VARIABLES
from bench.tasks import index
from tests.factories.index_server import JSON, pin, serving, small_sdist, tar


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A small distribution in place of the real one, an empty cache, and a pip that knows what ``told`` says."""
    content, inner = small_sdist()
    release = pin(monkeypatch, content, inner)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in (*OFFLINE_VARIABLES, "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return content, release


@pytest.fixture
def told(monkeypatch):
    """Sets what ``pip config list`` prints."""

    def tell(*lines):
        monkeypatch.setattr(package_index, "_pip", lambda *words: "".join(f"{line}\n" for line in lines))

    return tell


@pytest.fixture(params=["json", "html"])
def served(request, small, told):
    with serving(small[0], request.param) as server:
        told(f"global.index-url='{server.url}'")
        yield server


@pytest.fixture
def lone(small, told):
    """The index in one of its forms."""
    with serving(small[0]) as server:
        told(f"global.index-url='{server.url}'")
        yield server


# what arrives


def test_the_rows_come_from_the_index_once_and_then_from_the_cache(served, no_setup_is_run):
    assert not index.cached()
    assert index.refusal() is None
    assert index.cached()
    asked = list(served.asked)
    train, test = index.read("movie-rating")
    assert len(train) + len(test) == 60
    assert served.asked == asked == ["/simple/vadersentiment/", f"/files/{index.RELEASE.file}"]


@pytest.fixture
def no_setup_is_run(monkeypatch):
    monkeypatch.setattr(package_index.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))


def test_polarity_is_the_sign_of_ratings_that_are_not_near_zero(served):
    train, test = index.read("movie-polarity")
    labels = dict(zip([*train.texts, *test.texts], [*train.labels, *test.labels], strict=True))
    assert labels["A charming film & a warm one.",] == 1
    assert labels["dull and ''long''",] == 0
    assert labels["Touché!",] == 1
    assert ("Neither good nor bad",) not in labels
    assert index.read_train("movie-polarity") == train


def test_a_split_depends_on_words_alone_so_that_one_text_with_two_ratings_is_on_one_side():
    assert {index.in_test(text) for text in ("Damn! running late SUCKS!", "damn, running  late sucks")} == {False}
    sides = [index.in_test(f"sentence {n}") for n in range(2_000)]
    assert 160 <= sum(sides) <= 240
    assert index.in_test("sentence 4") is index.in_test("Sentence 4.")


def test_nothing_of_the_archive_is_written_beside_the_cache(served, tmp_path):
    index.read("movie-rating")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [package_index.cache_path(index.RELEASE)]


def test_the_tables_of_the_tasks_are_those_that_are_read():
    tables = tomllib.loads(Path(index.__file__).with_name("icwsm.toml").read_text(encoding="utf-8"))
    assert [table["name"] for table in tables["task"]] == list(index.FILES)
    assert {table["name"] for table in tables["task"] if table["kind"] == "classes"} == set(index.POLAR)
    movies = [" ".join(table["notes"]) for table in tables["task"] if table["name"].startswith("movie")]
    assert all("sst2" in notes and "never both in one mean" in notes for notes in movies)
    assert "Hutto and Gilbert" in tables["defaults"]["citation"]


# where it is looked for


def test_a_folder_that_pip_is_told_to_find_links_in_serves_without_an_index(small, told, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "vadersentiment-3.3.2.tar.gz").write_bytes(small[0])
    told(":env:.no-index='1'", f":env:.find-links='{wheels}'")
    assert index.refusal() is None


def test_an_index_on_disk_and_a_second_one_serve_where_the_first_one_does_not(small, told, tmp_path):
    page = tmp_path / "simple" / "vadersentiment"
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<base href="files/"><a href="{index.RELEASE.file}">sdist</a>')
    (page / "files").mkdir()
    (page / "files" / index.RELEASE.file).write_bytes(small[0])
    told("global.index-url='http://127.0.0.1:9/simple'", f"global.extra-index-url='{(tmp_path / 'simple').as_uri()}'")
    assert index.refusal() is None


def test_the_name_and_password_of_an_index_go_to_its_host_and_into_no_message(lone, told, tmp_path):
    told(f"global.index-url='{lone.url.replace('//', '//someone:s%40cret@')}'")
    lone.faults = {"file": 403}
    assert "cret" not in index.refusal()
    assert set(lone.secrets) == {"Basic c29tZW9uZTpzQGNyZXQ="}  # someone:s@cret
    told(f"global.index-url='{lone.url}'")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password word\n")
    index.refusal()
    assert lone.secrets[-1] == "Basic b3RoZXI6d29yZA=="  # other:word


def test_the_environment_goes_before_a_command_and_a_command_before_all_of_them(told):
    told("global.index-url='https://a.test/s'", "install.index-url='https://b.test/s'", ":env:.cert='/c.pem'")
    setup = package_index.pip_setup()
    assert setup.indexes == ("https://b.test/s",)
    assert setup.certificates == "/c.pem"
    told(":env:.index-url='https://c.test/s'", "install.index-url='https://b.test/s'", "a line of another kind")
    assert package_index.pip_setup().indexes == ("https://c.test/s",)


def test_pip_itself_says_how_it_is_set_up(monkeypatch, tmp_path):
    """The real pip: its file, its variables, and the index that it asks where neither names one."""
    (tmp_path / "pip.conf").write_text("[global]\nextra-index-url = https://a.test/s\n    https://b.test/s\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_TRUSTED_HOST", "a.test")
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    setup = package_index.pip_setup()
    assert setup.indexes[0].startswith("https://")
    assert {"https://a.test/s", "https://b.test/s"} <= set(setup.indexes[1:])
    assert "a.test" in setup.trusted


def test_without_pip_its_variables_are_read_all_the_same(monkeypatch):
    def absent(*_):
        raise package_index.Unavailable("package index not asked: this Python has no pip")

    monkeypatch.setattr(package_index, "_pip", absent)
    monkeypatch.setenv("PIP_INDEX_URL", "https://a.test/s")
    assert package_index.pip_setup().indexes == ("https://a.test/s",)
    monkeypatch.delenv("PIP_INDEX_URL")
    assert index.refusal() == "package index not asked: this Python has no pip"


# what is refused


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"page": 404}, r"http://127\.0\.0\.1:\d+/simple/vadersentiment/ answered 404"),
        ({"page": 500}, r".*/ answered 500"),
        ({"page": b"\xff\xfe<<<!["}, r".*/ does not list vaderSentiment-3\.3\.2\.tar\.gz"),
        ({"page": b'{"files": [{"url": 3}, 7]}'}, r".*/ does not list vaderSentiment-3\.3\.2\.tar\.gz"),
        ({"page": b'<a href="file:///vaderSentiment-3.3.2.tar.gz">x</a>'}, r".*/ does not list vaderS.*"),
        ({"file": 503}, r".*/files/vaderSentiment-3\.3\.2\.tar\.gz answered 503"),
        ({"file": "truncated"}, r".*gz ended after [\d,]+ of [\d,]+ bytes"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_an_index_with_a_fault_is_one_phrase_and_leaves_the_cache_empty(lone, tmp_path, faults, reason):
    lone.faults = faults
    assert re.fullmatch(reason, index.refusal())
    assert not index.cached()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("part", "limit", "where"), [("page", "PROBE_SECONDS", "simple/"), ("file", "FETCH_SECONDS", "files/")]
)
def test_an_index_that_hangs_is_waited_for_so_long_and_no_longer(lone, monkeypatch, part, limit, where):
    monkeypatch.setattr(package_index, limit, 0.2)
    lone.faults = {part: "hang"}
    assert re.fullmatch(rf"package index not reached: http://.*/{where}.*: no answer in 0\.2 s", index.refusal())


def test_a_large_file_has_more_time(lone, monkeypatch):
    monkeypatch.setattr(package_index, "FETCH_SECONDS", 0.0)
    monkeypatch.setattr(package_index, "SLOWEST", index.RELEASE.size * 10**9)
    assert "no answer in 1e-09 s" in index.refusal()
    monkeypatch.setattr(package_index, "SLOWEST", index.RELEASE.size / 20)
    assert index.refusal() is None


def test_another_file_under_the_name_is_refused_with_both_hashes(lone, small):
    lone.faults = {"file": b"x" * len(small[0])}
    why = index.refusal()
    assert index.RELEASE.sha256 in why
    assert "is not the pinned file: sha256 of its first" in why
    lone.listed = "0" * 64
    assert index.refusal().endswith(f"with sha256 {'0' * 64}, expected {index.RELEASE.sha256}")


def test_an_index_that_nothing_listens_at_is_not_reached(told):
    told("global.index-url='http://127.0.0.1:9/simple'")
    assert index.refusal() == (
        "package index not reached: http://127.0.0.1:9/simple/vadersentiment/: Connection refused"
    )
    with pytest.raises(BenchError, match=r"^vaderSentiment-3\.3\.2\.tar\.gz cannot be fetched \(package index not re"):
        index.read("movie-rating")


@pytest.mark.parametrize("variable", OFFLINE_VARIABLES)
def test_offline_nothing_is_asked(lone, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert index.refusal() == f"package index not asked: {variable} is set"
    assert lone.asked == []


def test_without_an_index_and_without_links_nothing_is_asked(told):
    told(":env:.no-index='true'")
    assert index.refusal() == "package index not asked: pip is set up with no-index and without find-links"


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_cache_is_fetched_anew_and_named_where_it_cannot_be(lone, size, small):
    path = package_index.cache_path(index.RELEASE)
    path.parent.mkdir(parents=True)
    path.write_bytes(small[0][:size])
    lone.faults = {"page": 500}
    assert not index.cached()
    assert index.refusal().startswith(f"{path} is damaged: sha256 is ")
    lone.faults = {}
    assert index.refusal() is None
    assert index.cached()


def test_a_cache_that_cannot_be_written_is_named(lone, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert index.refusal().endswith("cannot be written (Not a directory); free space, fix permissions, or set "
                                    "XDG_CACHE_HOME")  # fmt: skip


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no file vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"),
        ({index.ARCHIVE.name: b"x" * (index._MOST_BYTES + 1)}, "of at most 8,388,608 bytes"),
        ({index.ARCHIVE.name: b"another archive"}, "sha256 of vaderSentiment-3.3.2/additional_resources/"),
    ],
    ids=["missing", "too large", "another"],
)
def test_an_archive_of_another_content_is_refused(monkeypatch, told, tmp_path, files, said):
    content = tar(files)
    release = pin(monkeypatch, content)
    (tmp_path / release.file).write_bytes(content)
    told(":env:.no-index='1'", f":env:.find-links='{tmp_path}'")
    with pytest.raises(BenchError, match="remove") as refused:
        index.read("movie-rating")
    assert said in str(refused.value)


# the parsers


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\t\n\r&", exclude_categories=["Cs"])),
                          st.floats(-4, 4).map(lambda value: round(value, 6)))))  # fmt: skip
def test_rows_are_read_as_they_were_written(rows):
    lines = [f"{n}\t{rating:f}\t{text}" for n, (text, rating) in enumerate(rows)]
    found = index.parse("\r\n".join(lines or ["1\t0\t"]).encode(), "file")
    assert found == (rows or [("", 0.0)])


@given(st.binary())
def test_any_other_bytes_are_rows_or_one_sentence_with_the_line(content):
    try:
        assert all(-4 <= rating <= 4 for _, rating in index.parse(content, "file"))
    except BenchError as error:
        assert str(error).startswith("file: line ")


@pytest.mark.parametrize("rating", ["4.1", "nan", "1e0", "", "٣", "1_0", "--1"])
def test_a_rating_beyond_the_scale_is_refused(rating):
    with pytest.raises(BenchError, match="file: line 2 is not a number, a rating from -4 to 4 and a text"):
        index.parse(f"1\t1\ta\n2\t{rating}\tb".encode(), "file")


def test_entities_of_web_pages_are_characters_also_where_they_were_escaped_twice():
    rows = index.parse(b"1\t1\tTom &amp;amp; Ann &lt;3 &copy; &gt;:(", "file")
    assert rows == [("Tom & Ann <3 &copy; >:(", 1.0)]


JUNK = st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from([b"<a href='a'>", b"<base href='//['>"]))


@settings(max_examples=40)
@given(st.lists(JUNK).map(b"".join), st.sampled_from(["text/html", JSON, ""]))
def test_any_page_lists_some_urls_or_none(content, kind):
    for url in package_index.listed_urls(content, kind, "https://a.test/simple/x/"):
        assert url.startswith(("https:", "http:"))


LEAVES = st.none() | st.text() | st.integers() | st.sampled_from(["files", "url", "hashes", "sha256"])


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["files", "url", "hashes", "sha256", "filename"]), inner), max_leaves=12))  # fmt: skip
def test_any_json_lists_some_urls_or_none(page):
    assert isinstance(package_index.listed_urls(json.dumps(page).encode(), JSON, "https://a.test/"), list)


# the real one


@pytest.mark.network
def test_the_real_distribution_holds_what_the_paper_counts(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert index.refusal() is None
    sizes = {name: tuple(map(len, index.read(name))) for name in index.FILES}
    assert {name: sum(both) for name, both in sizes.items()} == {
        "movie-polarity": 10_072, "movie-rating": 10_605, "tweet-rating": 4_200, "product-rating": 3_708,
        "editorial-rating": 5_190,
    }  # fmt: skip
    document = (Path(index.__file__).parents[2] / "METHODOLOGY.md").read_text(encoding="utf-8")
    for name, (train, test) in sizes.items():
        assert re.search(rf"^\| `{name}` \|.*\| {train:,} \| {test:,} \|$", document, re.MULTILINE)
    assert not set(index.read("movie-rating")[1].texts) & set(index.read_train("movie-polarity").texts)
