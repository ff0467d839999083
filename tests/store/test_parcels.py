"""Files travel by their content: used where they stand, else landed once, whole and as they were sent."""

import shutil

import pytest

from bench.errors import BenchError
from bench.store.parcels import land, pack, standing


@pytest.fixture
def parcel(tmp_path, monkeypatch):
    """Two files of a folder, and a cache of the user's that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here" / "below").mkdir(parents=True)
    (tmp_path / "here" / "one").write_bytes(b"first")
    (tmp_path / "here" / "below" / "two").write_bytes(b"second")
    return pack(tmp_path / "here", ["one", "below/two"])


CONTENT = {"one": [b"fi", b"rst"], "below/two": [b"second"]}


def test_files_that_stand_where_they_were_packed_are_used_there(parcel, tmp_path):
    assert standing(parcel) == tmp_path / "here"


def test_a_machine_without_them_takes_what_is_sent_and_is_not_sent_it_again(parcel, tmp_path):
    shutil.rmtree(tmp_path / "here")
    assert standing(parcel) is None
    folder = land(parcel, CONTENT.__getitem__)
    assert (folder / "one").read_bytes() == b"first"
    assert (folder / "below" / "two").read_bytes() == b"second"
    assert standing(parcel) == folder
    assert land(parcel, lambda name: pytest.fail("it was sent twice")) == folder


def test_a_parcel_is_known_by_its_content_wherever_it_lies(parcel, tmp_path):
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert pack(tmp_path / "there", ["below/two", "one"]).id == parcel.id
    (tmp_path / "there" / "one").write_bytes(b"other")
    assert pack(tmp_path / "there", ["below/two", "one"]).id != parcel.id


def test_what_was_changed_where_it_stood_or_landed_is_not_used(parcel, tmp_path):
    (tmp_path / "here" / "one").write_bytes(b"FIRST")
    folder = land(parcel, CONTENT.__getitem__)
    assert standing(parcel) == folder
    (folder / "one").write_bytes(b"f1rst")
    assert standing(parcel) is None
    assert (land(parcel, CONTENT.__getitem__) / "one").read_bytes() == b"first"


def test_what_arrives_otherwise_than_it_was_sent_is_refused_and_never_used(parcel, tmp_path):
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(BenchError, match=r"^one: arrived with another sha256 than it was sent with"):
        land(parcel, (CONTENT | {"one": [b"worst"]}).__getitem__)
    assert standing(parcel) is None
    land(parcel, CONTENT.__getitem__)  # nor is it in the way
    assert standing(parcel) is not None


def test_a_cache_that_cannot_be_written_and_a_file_that_cannot_be_read_are_sentences(parcel, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "here")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BenchError, match=r"cannot be written .*; free space, fix permissions, or set XDG_CACHE_HOME"):
        land(parcel, CONTENT.__getitem__)
    with pytest.raises(BenchError, match=r"one: cannot be read .*, and jobs on other nodes need it"):
        pack(tmp_path / "here", ["one"])
