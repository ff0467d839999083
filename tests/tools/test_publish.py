"""The published form of a run loses nothing: every figure of a report is the same, read from either form."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import save_file

from bench.errors import BenchError
from bench.store.sidecars import (
    PREDICTIONS,
    Sidecars,
    directions_path,
    predictions_path,
    read_directions,
    read_predictions,
)
from bench.store.store import open_store, read_records, read_run
from tests.factories import reports
from tests.factories.command import bench
from tests.store.test_store import SUITE, score
from tools.publish import main, publish

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results" / "published"


def as_measured(name, folder):
    """A published run as it lay while it was measured: each cell with files of its own."""
    folder.mkdir(parents=True)
    for file in ("suite.toml", "records.jsonl"):
        shutil.copyfile(PUBLISHED / name / file, folder / file)
    for record in read_records(folder / "records.jsonl"):
        if (predicted := read_predictions(PUBLISHED / name, record.id)) is not None:
            Sidecars(predicted.table.to_pydict()).write(folder, record.id)
        if (added := read_directions(PUBLISHED / name, record.id)) is not None:
            directions_path(folder, record.id).parent.mkdir(exist_ok=True)
            save_file(added.vectors, directions_path(folder, record.id))
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "cells", "says"),
    [("glue-small", "predictions", 20, "Over test rows"), ("update-directions", "directions", 12, "of the baseline's")],
)
def test_a_report_is_the_same_from_either_form(name, kind, cells, says, tmp_path):
    measured, published = as_measured(name, tmp_path / "measured" / name), tmp_path / "published" / name
    assert len(list((measured / kind).iterdir())) == cells
    publish(measured, published)
    assert sorted(path.stem for path in published.iterdir()) == sorted(["suite", "records", kind])
    pages = [reports.markdown(read_run(folder)) for folder in (measured, published)]
    assert pages[0] == pages[1]
    assert says in pages[0]
    pd.testing.assert_frame_equal(*(pd.read_csv(export(folder)) for folder in (measured, published)))


def export(folder):
    path = folder / "figures.csv"
    bench("report", folder, "--format", "csv", "-o", path)
    return path


def test_a_published_run_goes_on_where_it_stopped(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    columns = {"row": [0], "label": [1], "prediction": [1]}
    with open_store(run, SUITE) as store:
        store.append(score("a"), Sidecars(columns))
    assert publish(run, out) == f"{out}: 1 records, {PREDICTIONS} of 1 cells; 3 files, 0.0 MB"
    with open_store(out, SUITE) as store:
        assert "a" in store
        store.append(score("b"), Sidecars(columns))
    assert predictions_path(out, "b").exists()
    assert [read_predictions(out, name).table.to_pydict() for name in "ab"] == [columns] * 2
    publish(out, tmp_path / "again")
    assert len(read_run(tmp_path / "again").records) == 2
    assert not predictions_path(tmp_path / "again", "b").exists()


def test_a_torn_last_line_is_not_published(tmp_path):
    with open_store(tmp_path / "run", SUITE) as store:
        store.append(score("a"))
    with (tmp_path / "run" / "records.jsonl").open("a") as records:
        records.write('{"torn')
    publish(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "records.jsonl").read_bytes().endswith(b"}\n")


def test_a_search_is_published_and_its_tables_are_made_again(tmp_path):
    out = tmp_path / "search"
    publish(PUBLISHED / "tuning" / "glue-small", out)
    shown = bench("report", out).stdout
    assert "learning rate" in shown
    assert "| lora(rank=8) |" in (out / "tuning.md").read_text()
    assert (out / "plots" / "expected-maximum.svg").exists()
    assert not (out / "tuned.toml").exists()


def test_what_is_no_run_and_what_is_there_already_is_refused(tmp_path, capsys, monkeypatch):
    with pytest.raises(BenchError, match=r"suite\.toml: not a readable suite"):
        publish(tmp_path, tmp_path / "out")
    with open_store(tmp_path / "run", SUITE):
        pass
    with pytest.raises(BenchError, match="holds no records; finish the run first"):
        publish(tmp_path / "run", tmp_path / "out")
    with open_store(tmp_path / "run", SUITE) as store:
        store.append(score())
    (tmp_path / "out").mkdir()
    with pytest.raises(BenchError, match="out: exists; remove it first"):
        publish(tmp_path / "run", tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["publish", str(tmp_path / "run"), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "exists; remove it" in capsys.readouterr().err


def test_the_repository_holds_of_its_runs_what_is_published_and_nothing_else():
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    assert 30 < len(paths) <= 100
    assert sum(path.stat().st_size for path in paths) < 20_000_000
    names = {"README.md", "suite.toml", "records.jsonl", "predictions.parquet", "directions.safetensors"}
    apart = {"reference", "validation", "robustness"}  # of gates, of others, of what was tried against the command
    strange = {path for path in paths if path.name not in names and path.parent.name not in apart}
    assert strange == {PUBLISHED / "ab-self-test" / "trials.jsonl"}


def test_every_committed_prediction_is_that_of_its_record():
    from bench.analysis.examples import main_metric, read_rows

    read = 0
    for suite in PUBLISHED.glob("*/suite.toml"):
        for record in read_run(suite.parent).records:
            if record.kind == "score" and record.predictions_sha256 and main_metric(record):
                read += read_rows(suite.parent, record) is not None  # raises where hash or score is another
    assert read > 400


def test_a_traceback_names_files_from_their_package_on(tmp_path):
    lines = [
        ("/srv/anna/checkout/bench/count/step.py", "bench/count/step.py"),
        ("/srv/anna/env/lib/python3.11/site-packages/torch/nn/module.py", "site-packages/torch/nn/module.py"),
        ("methods/lora.py", "methods/lora.py"),
    ]
    trace = "".join(f'  File "{lying}", line 3, in f\n' for lying, _ in lines)
    failed = score("a").model_copy(update={"status": "failed", "reason": "broken", "traceback": trace})
    with open_store(tmp_path / "run", SUITE) as store:
        store.append(failed)
    publish(tmp_path / "run", tmp_path / "out")
    (record,) = read_records(tmp_path / "out" / "records.jsonl")
    assert record.traceback == "".join(f'  File "{named}", line 3, in f\n' for _, named in lines)
    assert record.model_copy(update={"traceback": trace}) == failed
