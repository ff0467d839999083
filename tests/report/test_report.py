"""What a person reads says what was measured, on what and how sure, whatever the run holds."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.cells import cell_len

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.report import format as fmt
from bench.report.charts import catalogue as plots
from bench.report.document import Cell, Column, Table
from bench.report.render.terminal import table_lines
from bench.report.sections import costs
from bench.schema.record import SavedTensor, ServedBytes, ServingTimes
from bench.store.store import Run
from tests.factories import reports
from tests.factories.records import LABELS, cost, failed, glue_small, score, suite
from tests.factories.reports import screen

HOSTILE = "<script>alert(1)</script>|`x`\n# [a](b) \x1b[31m *b* _c_"


@pytest.fixture
def run(tmp_path):
    return glue_small(tmp_path)


def row(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(label))


def test_figures_that_cannot_be_written_are_named(run):
    (run.folder / "plots").write_text("a file where the folder should be")
    with pytest.raises(BenchError, match=r"plots: cannot be written"):
        plots.draw(run)


def test_the_terminal_says_what_experience_shows(run):
    text = screen(run)
    assert "glue-small · 13 methods · all-MiniLM-L6-v2 22.6 M · 2 tasks x 3 seeds" in text
    assert "SYNTHETIC stand-ins for sst2, mrpc (hub not reached)" in text
    assert re.search(r"A/A control 1\.002 \[0\.9\d+, 1\.0\d+\].*quiet enough, inside 0\.97 - 1\.03", text)
    assert "score (synthetic)" in text
    assert "bag-of-words baseline: 58.0" in text
    assert "scores: inconclusive: 3 seeds (5 needed), synthetic data" in text
    assert "still improving" in text
    lora = row(text, "lora(rank=8)").split("  ")
    assert [cell.strip() for cell in lora if cell][1:5] == ["73.7 k", "295 kB", "0.51", "0.57 ±.01"]
    assert re.search(r"1\.0[01] =", row(text, "lora(rank=8)"))
    assert re.search(r" 77\.9\*  -2\.9 \[", row(text, "prefix_tuning"))


def test_the_terminal_shows_every_method_on_one_line_of_plain_text(run, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    text = screen(run)
    assert [label for label in LABELS if row(text, label)] == list(LABELS)
    # The last line names the run's folder, which may be as long as it likes and must stay in one piece.
    assert max(cell_len(line) for line in text.splitlines() if not line.startswith("report")) <= 118
    assert "\x1b" not in text and "…" not in text


def test_a_narrow_terminal_gets_the_columns_below_each_other(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")  # a dumb terminal has no width to go by
    text = screen(run, force_terminal=True, width=80, color_system=None)
    assert max(map(cell_len, text.partition("report  ")[0].splitlines())) <= 80
    assert len(re.findall(r"^lora\(rank=8\)", text, re.MULTILINE)) == 2
    assert "…" not in text


def test_a_long_configuration_has_the_width_below_its_name_to_itself():
    """No word of it is broken, and the figures stay where they are."""
    label = "peft(peft_type='LORA', r=8, lora_alpha=16, target_modules=['query', 'value'], use_dora=True)"
    columns = (Column("method"), Column("step / base", ("", "step", "/base")))
    body = tuple((Cell(name), Cell(text)) for name, text in (("lora(rank=8)", "1.00"), (label, "1.10")))
    title, _, head, *rows = table_lines(Table("", columns, body), 60)
    assert title == "" and head == "method        /base"
    assert rows == [
        "lora(rank=8)   1.00",
        "peft           1.10",
        "  (peft_type='LORA', r=8, lora_alpha=16,",
        "   target_modules=['query', 'value'], use_dora=True)",
        "",
    ]


def test_top_hides_methods_and_says_how_many(run):
    text = screen(run, top=4)
    assert not re.search("^pfeiffer_adapter", text, re.MULTILINE)
    assert "9 more in the report" in text


def test_a_noisy_machine_is_called_so(run):
    noisy = replace(run, records=tuple(cost(label, noise=0.02) for label in LABELS))
    assert "NOT quiet" in screen(noisy)
    assert "0.97 - 1.03" in screen(noisy)
    assert "NOT quiet" in reports.markdown(noisy)


def test_memory_is_called_gpu_memory_only_when_cuda_measured_it(run):
    gpu = replace(run, records=tuple(cost(label, peak_memory_source="cuda_allocated") for label in LABELS))
    assert re.search(r"peak GPU.*\n.*memory", screen(gpu)) and "FLOPs: counted" in screen(gpu)
    assert "peak GPU" not in screen(run) and "FLOPs and memory: counted" in screen(run)


def broken(run) -> Run:
    records = list(run.records)
    records[3] = failed(records[3])  # houlsby_adapter's cost
    at = next(i for i, r in enumerate(records) if r.id == "score-head-sst2-1")
    records[at] = failed(records[at], "nan", "loss became NaN at step 7")
    return replace(run, records=tuple(records[:-1]))


def test_failures_are_counted_and_explained_and_missing_figures_are_dashes(run):
    text = screen(broken(run))
    assert "12/13 measured, 1 FAILED" in text
    assert "76/78 ok, 1 not run yet, 1 FAILED" in text
    assert "inconclusive: 3 seeds (5 needed), synthetic data" in text
    assert "oom: houlsby_adapter, cost: out of memory" in text
    assert "nan: head, sst2, seed 1: loss became NaN at step 7" in text
    assert re.search(r"^houlsby_adapter +598 k +2\.4 MB( +-){6} ", text, re.MULTILINE)
    report = reports.markdown(broken(run))
    assert "| head | nan | sst2 | 1 | loss became NaN at step 7 |" in report
    assert "| houlsby_adapter | oom | cost | - | out of memory |" in report


def test_a_probe_alone_and_scores_alone_and_nothing_at_all_are_reported(tmp_path):
    probe, scored = glue_small(tmp_path, scores=False), glue_small(tmp_path, costs=False)
    nothing = Run.of(tmp_path, suite(), ())
    assert "latency" in screen(probe) and "score (" not in screen(probe) and "SYNTHETIC" not in screen(probe)
    assert "score (synthetic)" in screen(scored) and "latency" not in screen(scored)
    assert "0/78 ok, 78 not run yet" in screen(nothing)
    assert "## Scores" not in reports.markdown(probe)
    assert "## Costs" not in reports.markdown(scored)
    assert reports.markdown(nothing).startswith("# glue-small")
    assert plots.draw(nothing) == []


def test_random_weights_are_said_and_conclude_nothing(tmp_path):
    random = {"name": "minilm-l6", "revision": None, "sha256": None, "parameters": 100, "weights": "random"}
    records = tuple(score(label, "sst2", seed, source="hub", backbone=random) for label in LABELS for seed in range(5))
    run = Run.of(tmp_path, suite(seeds=list(range(5)), tasks=["sst2"], data={"kind": "hub"}), records)
    assert "(random weights)" in screen(run)
    assert "inconclusive: random weights" in screen(run)


def test_real_data_and_five_seeds_are_not_doubted(tmp_path):
    run = glue_small(tmp_path, source="hub", seeds=range(5), labels=["full", "ia3"])
    assert "verdict" not in screen(run)
    assert "SYNTHETIC" not in screen(run) + reports.markdown(run)


def test_the_line_about_the_data_is_taken_as_the_planner_wrote_it(run):
    line = "SYNTHETIC stand-ins for sst2, mrpc (asked for). Real GLUE: --data DIR or a network"
    text = screen(replace(run, suite=run.suite.changed(data={"kind": "synthetic", "reason": line})))
    assert f"data    {line}\n" in text


def hostile_run(folder):
    """A run whose names and reasons try to be markup."""
    labels = ["full", HOSTILE]
    run = glue_small(folder, labels=["full"])
    extra = [cost(HOSTILE, warnings=[HOSTILE]), *(score(HOSTILE, "sst2", seed) for seed in range(3))]
    extra.append(failed(score(HOSTILE, "mrpc", 0), "crashed", HOSTILE))
    asked = suite(methods=labels, question=HOSTILE, name="x", data={"kind": "synthetic", "reason": HOSTILE})
    return replace(run, suite=asked, records=(*run.records, *extra))


@pytest.fixture
def hostile(tmp_path):
    return hostile_run(tmp_path)


def test_hostile_text_stays_text(hostile):
    report = reports.markdown(hostile)
    assert "<script>" not in report
    assert "&lt;script&gt;" in report
    tables = re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE)
    assert all(len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1 for table in tables)
    assert not re.search(r"^# \[a\]", report, re.MULTILINE)
    assert "\x1b" not in report + screen(hostile)


def test_the_report_says_where_every_figure_comes_from(run):
    (run.folder / "plots").mkdir()
    for name in ("score-memory", "backward-depth"):
        (run.folder / "plots" / f"{name}.svg").touch()
    report = reports.markdown(run)
    for wanted in (
        "Which method, at what cost?", "AMD EPYC", "torch 2.13.0", "commit 0123456789", "sha256 53aa", "0, 1, 2",
        "22,565,376", "SYNTHETIC", "Give 5 seeds or more", "would change this score: prefix_tuning", "trained on SNLI",
        "| 6 | 24 |", "(plots/score-memory.png)", "(plots/backward-depth.svg)", "peak memory (counted)", "A/A control",
    ):  # fmt: skip
        assert wanted in report, wanted


def test_the_report_names_the_version_of_a_library_whose_methods_ran(run):
    assert "methods of" not in reports.markdown(run)
    bridged = cost("full")
    method = bridged.method.model_copy(update={"config": {"peft_type": "LORA", "peft_version": "0.21.2"}})
    bridged = bridged.model_copy(update={"method": method})
    found = replace(run, records=[*run.records, bridged])
    assert "| methods of | peft 0.21.2 |" in reports.markdown(found)


@pytest.mark.parametrize("asked", [{}, {"rebuild": False}, {"rebuild": True}])
def test_the_report_says_where_modules_were_built_anew_for_every_block(run, asked):
    shape = cost("full").shape
    table = {"batch": shape.batch, "length": shape.length, **asked}
    rebuilt = replace(run, suite=run.suite.changed(cost=[table]))
    tables = costs.of_shape(Results(rebuilt), shape)
    (caption,) = [table.caption for table in tables if table.caption.startswith("Timed")]
    for text in (caption, reports.markdown(rebuilt)):
        assert ("; all modules built anew for every block" in text) == asked.get("rebuild", False)


def test_inference_is_reported_against_the_base_at_the_batches_that_were_timed(run):
    report = reports.markdown(run)
    assert "**Counted: one inference of one row of 32 tokens**" in report
    assert "- The base model: 87 operations, critical path 69, 680 M FLOPs." in report
    assert "**Latency on rows of 32 tokens against the base model**" in report
    assert "| houlsby_adapter | 97 | - | 77 | - | 762 M | 1.120 | - | - |" in report
    assert "| lora(rank=8) | 89 | 87 = | 70 | 69 |" in report
    assert "unmerged, batch 32" in report and "batch 8" not in report
    tables = costs.of_shape(Results(run), cost("full").shape)
    table = next(table for table in tables if "inference" in table.caption)
    assert table.notes[0].startswith("The base model: 87 operations, critical path 69, 680 M FLOPs.")
    assert table.caption == "Counted: one inference of one row of 32 tokens"
    assert [cell.text for cell in table.rows[-1]][:3] == ["lst(reduction=8)", "109", "-"]


def test_several_tasks_on_one_backbone_are_reported_beside_whole_copies(run):
    lora = cost("lora(rank=8)")
    time = lora.latency_seconds.unmerged.by_batch[1].model_copy(
        update={"ratio_to_baseline": 1.25, "ratio_interval": (1.2, 1.3)}
    )
    served = lora.model_copy(update={
        "serving_bytes": {"tasks_10": ServedBytes(deltas=10_000_000, copies=900_000_000)}, "serving_rows": 8,
        "serving_seconds": ServingTimes(
            base=time, mixed={"tasks_10": time}, in_turns={"tasks_10": time}, merged_in_turns=None
        ),
    })  # fmt: skip
    alone = [record for record in run.records if record.kind != "cost" or record.method.label != lora.method.label]
    tables = costs.of_shape(Results(replace(run, records=[*alone, served])), lora.shape)
    (table,) = [one for one in tables if one.caption.startswith("Several tasks on one backbone")]
    assert table.caption.endswith(": a batch of 8 rows of 32 tokens, which take them in turn")
    assert [cell.text for cell in table.rows[0]][:4] == ["lora(rank=8)", "10", "10.0 MB", "900 MB"]
    assert [cell.text for cell in table.rows[0]][5:] == ["1.250 [1.200, 1.300]"] * 2, (
        "what cannot be merged has no column"
    )
    assert not [one for one in costs.of_shape(Results(run), lora.shape) if "Several tasks" in one.caption]


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (fmt.count(22_565_376), "22.6 M"), (fmt.count(999_960), "1.0 M"), (fmt.count(0), "0"), (fmt.count(None), "-"),
        (fmt.count(float("nan")), "-"), (fmt.size(512), "512 B"), (fmt.size(300_500_000), "300 MB"), (fmt.size(0), "0"),
        (fmt.seconds(0.0123), "12.3 ms"), (fmt.seconds(2.0), "2.0 s"), (fmt.seconds(None), "-"),
        (fmt.ratio(0.0), "0"), (fmt.ratio(0.0001), "<0.01"), (fmt.ratio(0.567), "0.57"),
        (fmt.ratio_plus_minus(0.57, 0.565, 0.581), "0.57 ±.02"), (fmt.ratio_plus_minus(0.57, None, None), "0.57"),
        (fmt.ratio_plus_minus(0.57, 0.1, 9.0), fmt.TOO_FEW),
        (fmt.ratio_interval(1.24, 0.09, 17.2), fmt.TOO_FEW), (fmt.ratio_plus_minus(0.002, 0.001, 0.003), "<0.01"),
        (fmt.difference(-0.6, -1.9, 0.7), "-0.6 [-1.9, +0.7]"), (fmt.difference(None), "-"),
        (fmt.points_interval(81.2, 80.0, 82.4), "81.2 ± 1.2"), (fmt.plural(1, "seed"), "1 seed"),
    ],
)  # fmt: skip
def test_units_are_written_in_one_way(shown, wanted):
    assert shown == wanted


def test_readers_never_import_torch_and_load_matplotlib_only_to_draw(tmp_path):
    script = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers', 'datasets', 'evaluate', 'peft', 'matplotlib.pyplot'):\n"
        "            raise ImportError(f'a reader imports {name}')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from pathlib import Path\n"
        "import bench.stats.intervals, bench.analysis\n"
        "from bench.report.charts import catalogue as plots\n"
        "from bench.report import pages\n"
        "from bench.verdicts.claims import JudgedResults\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from rich.console import Console\n"
        "from tests.factories.records import glue_small\n"
        f"run = glue_small(Path({str(tmp_path)!r}), labels=['full', 'ia3'])\n"
        "made = pages.document(JudgedResults(run), plots.draw(run))\n"
        "pages.write(made, run.folder); pages.show(made, run.folder, Console())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_report_names_the_form_of_the_step_and_what_dominates_memory(run):
    saved = {"module": "encoder.layer.0", "owner": "backbone", "shape": (32, 64, 384), "dtype": "float32"}
    changed = []
    for record in run.records:
        if record.kind == "cost":
            shape = record.shape.model_copy(update={"checkpointing": True, "compiled": True, "weights": "nf4"})
            kept = tuple(SavedTensor(**saved, bytes=record.bytes.saved_activations // n) for n in (4, 5, 6, 7))
            update = {"shape": shape, "largest_saved": kept, "predicted_peak_memory_bytes": record.peak_memory_bytes}
            record = record.model_copy(update=update)
        changed.append(record)
    text = reports.markdown(replace(run, records=tuple(changed)))
    assert "checkpointing, compiled, nf4 weights" in text
    lines = [line for line in text.splitlines() if "encoder.layer.0" in line and "lora" in line]
    assert [line.split("|")[-2].strip() for line in lines] == ["25.0 %", "20.0 %", "16.7 %"]
    assert "32 x 64 x 384" in lines[0]
    header = next(line for line in text.splitlines() if "saved activations |" in line)
    assert "predicted peak" in header


def claimed(run, **changes):
    claims = [
        {"name": "halved", "says": "LoRA halves backward", "metric": "flops.backward", "method": ["lora(rank=8)"],
         "versus": "full", "ratio": {"min": 0.45, "max": 0.6}, "price": ["step_seconds"]},
        {"name": "spared", "says": "LoRA spares backward", "metric": "flops.backward", "method": ["lora(rank=8)"],
         "versus": "full", "ratio": {"max": 0.1}},
        {"name": "score", "says": "LoRA keeps the score", "metric": "score", "method": ["lora(rank=8)"],
         "versus": "full", "difference": {"min": -1.0}},
        {"name": "all", "says": "All train less", "metric": "trainable_parameters.method",
         "method": ["lora(rank=8)", "ia3"], "versus": "full", "ratio": {"max": 0.5}},
    ]  # fmt: skip
    return replace(run, suite=run.suite.changed(claims=claims, **changes))


def test_claims_stand_below_the_table_with_verdict_figure_and_reach(run):
    text = screen(claimed(run), width=200, force_terminal=True, color_system=None)
    for line in (
        r"pass  LoRA halves backward: 0\.5\d\d x \(exact, any machine\); paid: step time 0\.\d\d x",
        r"FAIL  LoRA spares backward: 0\.5\d\d x \(exact, any machine\)",
        r"  \?  Not decided: whether LoRA keeps the score: -0\.\d points \[.*\] \(3 seeds\); inconclusive: 3 seeds "
        r"\(5 needed\), synthetic data",
        r"pass  All train less: 0\.001 - 0\.003 x \(exact, any machine\)",
    ):
        assert re.search(f"^{line}$", text, re.M), line
    report = reports.markdown(claimed(run))
    assert "## Claims" in report
    assert "| **fail** | LoRA spares backward" in report
    assert "Holm" in report
    assert "## Claims" not in reports.markdown(run)


def test_a_run_that_only_counted_shows_counts_and_asks_nothing_of_times_or_scores(run):
    taken = ("forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds", "latency_seconds",
             "peak_memory_bytes", "peak_memory_source")  # fmt: skip
    records = [
        r.model_copy(
            update={**dict.fromkeys(taken), "predicted_peak_memory_bytes": r.peak_memory_bytes, "aa_control": {}}
        )
        for r in run.records
        if r.kind == "cost"
    ]
    cost = [{"batch": 32, "length": 64, "timed": False}]
    counted = replace(claimed(run, cost=cost, tasks=[], seeds=[]), records=tuple(records))
    text = screen(counted)
    assert "costs   13/13 counted, none run" in text
    assert "peak mem" in text
    assert "(predicted)" in text
    assert "301 MB" in row(text, "lora(rank=8)")
    assert "=" in row(text, "lora(rank=8)")
    assert "latency b=1" not in text
    assert "LoRA halves backward" in text
    assert "LoRA keeps the score" not in text
