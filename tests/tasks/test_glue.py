"""The nine tasks are those of GLUE, and a wrong name is told the near one."""

import subprocess
import sys

import pytest

from bench.errors import BenchError
from bench.tasks.catalogue import task
from tests.factories.tasks import GLUE, HUB_REVISION


def test_all_nine_tasks_stand_with_their_official_folders():
    assert {name: spec.folder.name for name, spec in GLUE.items()} == {
        "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP",
        "mnli": "MNLI", "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cola", ("unacceptable", "acceptable")),
        ("sst2", ("negative", "positive")),
        ("mrpc", ("not_equivalent", "equivalent")),
        ("stsb", ()),
        ("qqp", ("not_duplicate", "duplicate")),
        ("mnli", ("entailment", "neutral", "contradiction")),
        ("qnli", ("entailment", "not_entailment")),
        ("rte", ("entailment", "not_entailment")),
        ("wnli", ("not_entailment", "entailment")),
    ],
)
def test_label_ids_are_the_hubs(name, labels):
    assert GLUE[name].labels == labels
    assert GLUE[name].regression == (not labels)


def test_main_metrics_are_those_of_the_lora_paper():
    special = {"cola": "matthews_correlation", "stsb": "pearson"}
    assert {name: spec.main_metric for name, spec in GLUE.items()} == {
        name: special.get(name, "accuracy") for name in GLUE
    }


def test_scores_are_taken_on_the_development_set_matched_for_mnli():
    assert {spec.test_split for name, spec in GLUE.items() if name != "mnli"} == {"validation"}
    assert GLUE["mnli"].test_split == "validation_matched"


def test_the_hub_revision_is_a_commit():
    assert len(HUB_REVISION) == 40
    assert set(HUB_REVISION) <= set("0123456789abcdef")


def test_unknown_task_names_the_place_and_the_near_name():
    with pytest.raises(BenchError, match=r"suite\.toml: unknown task 'sst-2'.*Did you mean 'sst2'"):
        task("sst-2", "suite.toml")


def test_tasks_import_neither_torch_nor_datasets_nor_evaluate():
    code = (
        "import sys, bench.tasks.sources, bench.tasks.synthetic, bench.tasks.metrics;"
        "print(sorted({'torch', 'transformers', 'datasets', 'evaluate', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
