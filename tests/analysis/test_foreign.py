"""Results of others stand beside ours where figures mean the same, and say why where they do not."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.analysis import foreign
from bench.analysis.beside import beside, named
from bench.analysis.foreign_formats import FORMS, read
from bench.analysis.results import Results
from bench.errors import BenchError
from bench.report.render import markdown
from bench.report.sections import foreign as shown
from bench.store.store import Run, open_store
from tests.factories.command import bench
from tests.factories.others import comparison, harness, inference, training, write
from tests.factories.records import cost, score, suite

LABELS = ["full", "lora(rank=8)", "head"]
ON_GPU = {"shape": {"device": "NVIDIA L40S", "clipping": True}, "peak_memory_source": "cuda_allocated"}


def ours(*records):
    return Results(Run.of(Path("run"), suite(methods=LABELS), records))


def reading(values, *records, tmp_path, label=None):
    path = write(tmp_path, values)
    (found,) = beside(ours(*records), named(f"{label}={path}" if label else str(path)))
    return found


def fields(rows):
    return {row.field for row in rows}


def test_parameters_and_stored_bytes_of_peft_stand_beside_those_of_the_same_method(tmp_path):
    found = reading(comparison(), *map(cost, LABELS), tmp_path=tmp_path)
    trained, stored = found.beside
    assert (trained.method, trained.ours, trained.theirs, trained.verdict) == ("lora(rank=8)", 73_728, 73_728, "equal")
    assert (stored.figure, stored.ours, stored.theirs, stored.verdict) == (
        "delta_bytes",
        294_912,
        296_112,
        "no verdict",
    )
    assert "header" in stored.why and not found.apart


def test_another_number_of_trained_parameters_is_different(tmp_path):
    found = reading(comparison(num_trainable_params=73_729), cost("lora(rank=8)"), tmp_path=tmp_path)
    assert found.beside[0].verdict == "different"


def test_reserved_memory_and_whole_run_times_of_peft_are_none_of_ours_and_say_why(tmp_path):
    found = reading(comparison(), cost("lora(rank=8)"), tmp_path=tmp_path)
    alone = {row.field: row for row in found.alone}
    assert alone["train_info.accelerator_memory_max"].value == 9_000_000_000
    assert "reserved" in alone["train_info.accelerator_memory_max"].why
    assert "evaluation" in alone["train_info.train_time"].why
    assert alone["train_info.metrics.train time / steps"].value == 0.25
    assert alone["train_info.metrics.mem allocated avg"].value == 4e9


@pytest.mark.parametrize(
    ("where", "value", "key"),
    [
        (("train_config", "model_id"), "gpt2", "backbone"),
        (("peft_config", "r"), 16, "rank"),
        (("peft_config", "use_dora"), True, "method"),
        (("peft_config", "init_lora_weights"), "pissa_niter_4", "method"),
        (("peft_config", "peft_type"), "OFT", "method"),
    ],
)
def test_what_differs_stands_apart_and_is_named(where, value, key, tmp_path):
    values = comparison()
    values["run_info"][where[0]][where[1]] = value
    found = reading(values, cost("lora(rank=8)"), tmp_path=tmp_path)
    assert not found.beside
    assert {each.key for row in found.apart for each in row.differs} == {key}


def test_stored_bytes_depend_on_the_type_of_what_is_stored_and_parameters_do_not(tmp_path):
    values = comparison()
    values["run_info"]["train_config"] |= {"dtype": "bfloat16", "autocast_adapter_dtype": False}
    found = reading(values, cost("lora(rank=8)"), tmp_path=tmp_path)
    assert [row.figure for row in found.beside] == ["trainable_parameters.method"]
    assert [each.key for each in found.apart[0].differs] == ["adapter_dtype"]


def test_full_fine_tuning_of_peft_is_our_full_and_its_size_an_estimate(tmp_path):
    values = comparison()
    values["run_info"]["peft_config"] = None
    found = reading(values, *map(cost, LABELS), tmp_path=tmp_path)
    assert [(row.method, row.figure) for row in found.beside] == [("full", "trainable_parameters.method")]
    assert "estimated" in next(row.why for row in found.alone if row.field == "train_info.file_size")


def test_a_forward_of_optimum_is_the_latency_of_the_base_model_on_the_same_shape(tmp_path):
    record = cost("lora(rank=8)")
    found = reading(inference(), record, tmp_path=tmp_path)
    (row,) = found.beside
    assert (row.figure, row.theirs) == ("latency_seconds.base.batch_32", 0.2)  # the median of 0.3, 0.1, 0.2
    assert row.ours == record.latency_seconds.base.by_batch[32].median
    assert row.verdict == "no verdict"
    assert fields(found.alone) == {"report.load_model.latency.values, median", "report.forward.memory.max_ram"}


@pytest.mark.parametrize(
    ("backend", "shapes", "key"),
    [
        ({}, {"batch_size": 64}, "latency_batch"),
        ({}, {"sequence_length": 128}, "latency_length"),
        ({"torch_dtype": "bfloat16"}, {}, "dtype"),
        ({"torch_dtype": None}, {}, "dtype"),
        ({"attn_implementation": "eager"}, {}, "attention"),
        ({"device": "cuda"}, {}, "device"),
        ({"task": "text-generation"}, {}, "objective"),
        ({"name": "onnxruntime"}, {}, "program"),
        ({"torch_compile": True}, {}, "compiled"),
        ({"model": "roberta-base"}, {}, "backbone"),
    ],
)
def test_a_forward_on_another_shape_or_device_stands_apart(backend, shapes, key, tmp_path):
    found = reading(inference(backend, shapes), cost("lora(rank=8)"), tmp_path=tmp_path)
    assert not found.beside
    assert [each.key for each in found.apart[0].differs] == [key]


def test_a_training_of_optimum_stands_beside_step_time_and_peak_in_bytes_of_a_million_to_the_megabyte(tmp_path):
    found = reading(training(), cost("lora(rank=8)", **ON_GPU), tmp_path=tmp_path)
    step, peak = found.beside
    assert (step.figure, step.theirs) == ("step_seconds", 0.5)
    assert (peak.figure, peak.ours, peak.theirs) == ("peak_memory_bytes.step", 301_000_000, 301_000_000)
    assert peak.verdict == "no verdict"
    assert "report.train.memory.max_reserved" in fields(found.alone)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"per_device_train_batch_size": 16}, "batch"),
        ({"gradient_accumulation_steps": 2}, "accumulation"),
        ({"optim": "adafactor"}, "optimizer"),
        ({"max_grad_norm": 0}, "clipping"),
        ({"gradient_checkpointing": True}, "checkpointing"),
        ({"bf16": True}, "dtype"),
    ],
)
def test_a_training_step_of_another_form_stands_apart(arguments, key, tmp_path):
    found = reading(training(arguments), cost("lora(rank=8)", **ON_GPU), tmp_path=tmp_path)
    assert not found.beside
    assert {each.key for row in found.apart for each in row.differs} == {key}


def test_what_a_tracker_sums_is_no_peak_of_the_gpu_allocator(tmp_path):
    found = reading(training(), cost("lora(rank=8)", shape=ON_GPU["shape"]), tmp_path=tmp_path)
    assert [row.figure for row in found.beside] == ["step_seconds"]


def test_a_report_without_its_configuration_takes_the_one_beside_it_or_agrees_with_nothing(tmp_path):
    values = inference()
    write(tmp_path, values["report"], "benchmark_report.json")
    record = cost("lora(rank=8)")
    (lone,) = beside(ours(record), read(tmp_path / "benchmark_report.json"))
    assert not lone.beside and "not stated" in {each.theirs for each in lone.apart[0].differs}
    write(tmp_path, values["config"], "benchmark_config.json")
    (whole,) = beside(ours(record), read(tmp_path / "benchmark_report.json"))
    assert [row.figure for row in whole.beside] == ["latency_seconds.base.batch_32"]


def test_accuracy_of_the_harness_stands_beside_the_mean_over_seeds_of_the_method_that_the_user_names(tmp_path):
    records = [score("lora(rank=8)", "sst2", seed) for seed in (0, 1)]
    values = harness()
    values["n-samples"]["sst2"]["effective"] = records[0].task.test_rows
    found = reading(values, *records, tmp_path=tmp_path, label="lora(rank=8)")
    (row,) = found.beside
    assert (row.figure, row.theirs) == ("metrics.accuracy", 0.75)
    assert row.ours == pytest.approx(sum(r.metrics["accuracy"] for r in records) / 2)
    assert "mean of 2 seeds" in row.why
    assert fields(found.alone) == {"results.sst2.acc_norm,none"}


def test_the_harness_does_not_say_which_method_an_adapter_is_so_its_scores_stand_apart(tmp_path):
    record = score("lora(rank=8)", "sst2", 0)
    values = harness()
    values["n-samples"]["sst2"]["effective"] = record.task.test_rows
    found = reading(values, record, tmp_path=tmp_path)
    assert [(each.key, each.theirs) for each in found.apart[0].differs] == [("method", "not stated")]
    other = reading(harness("mnli"), record, tmp_path=tmp_path, label="lora(rank=8)")
    assert {each.key for each in other.apart[0].differs} >= {"task"}


def test_what_the_harness_could_not_measure_is_passed_over_and_groups_have_no_number_of_examples(tmp_path):
    values = harness(**{"n-shot": {"sst2": None}})
    values["results"]["sst2"] |= {"acc,none": float("nan"), "acc_stderr,none": "N/A"}
    found = reading(values, score("lora(rank=8)", "sst2", 0), tmp_path=tmp_path)
    assert fields(found.alone) == {"results.sst2.acc_norm,none"} and not found.apart


def test_a_method_that_the_run_lacks_is_one_sentence(tmp_path):
    with pytest.raises(BenchError, match=r"unknown method 'lara\(rank=8\)'; .*Did you mean 'lora\(rank=8\)'"):
        reading(harness(), score("lora(rank=8)", "sst2", 0), tmp_path=tmp_path, label="lara(rank=8)")


def without(values, *path):
    for key in path[:-1]:
        values = values[key]
    del values[path[-1]]


@pytest.mark.parametrize(
    ("make", "path", "said"),
    [
        (
            comparison,
            ("train_info", "file_size"),
            "train_info.file_size is missing; results of peft's method comparison",
        ),
        (comparison, ("train_info",), "train_info is missing"),
        (inference, ("report", "forward", "latency", "values"), "report.forward.latency.values is missing"),
    ],
)
def test_a_missing_field_is_named(make, path, said, tmp_path):
    values = make()
    without(values, *path)
    with pytest.raises(BenchError, match=said):
        read(write(tmp_path, values))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[1, 2]", "holds no table of results but a list"),
        (b'{"a": 1, "a": 2}', "the key 'a' is listed twice"),
        (b'{"speed": 3}', "results of no known program; known, by the keys of their files: peft's method comparison"),
        (b'{"results": {}}', "results holds no figure by a name such as 'acc,none'"),
        (b'{"results": {"sst2": {"acc,none": null}}}', "nothing in it was measured"),
        (b'{"results": {"sst2": {"acc": 0.5}}}', "as lm-eval writes it from 0.4 on"),
        (b'{"results": {"t": {"acc,none": 1e999}}}', "is no number"),
        (b'{"train": {"latency": {"unit": "ms", "values": [1.0]}}}', "latency.unit = 'ms'; .* writes 's'"),
        (b'{"train": {"latency": {"unit": "s", "values": [true]}}}', "does not fit results of optimum-benchmark"),
        (b'{"report": 3}', "report is no table"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(text, said, tmp_path):
    (tmp_path / "bad.json").write_bytes(text)
    with pytest.raises(BenchError, match=said) as caught:
        read(tmp_path / "bad.json")
    assert str(caught.value).startswith(str(tmp_path / "bad.json")) and "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "LARGEST_FILE", 100)
    with pytest.raises(BenchError, match="larger than 0 MiB"):
        read(write(tmp_path, comparison()))
    with pytest.raises(BenchError, match="cannot be read"):
        read(tmp_path / "absent.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_field_a_file_is_read_or_refused_in_one_sentence(data, tmp_path_factory):
    values = data.draw(st.sampled_from([comparison, inference, training, harness]))()
    at = values
    while isinstance(at, dict) and at:
        key = data.draw(st.sampled_from(sorted(at)))
        if data.draw(st.booleans()) or not isinstance(at[key], dict):
            at[key] = data.draw(JSON)
            break
        at = at[key]
    path = write(tmp_path_factory.getbasetemp(), values)
    try:
        readings = beside(ours(cost("lora(rank=8)")), read(path))
        json.dumps(shown.plain(readings))
        markdown.render(shown.added(None, readings, "run"))
    except BenchError as error:
        assert "\n" not in str(error)


def test_every_form_is_read_from_a_file_of_its_own(tmp_path):
    forms = {read(write(tmp_path, make()))[0].form for make in (comparison, inference, harness)}
    assert forms == set(FORMS)


def test_the_command_shows_them_in_the_terminal_as_json_and_as_markdown(tmp_path):
    with open_store(tmp_path / "run", suite(methods=LABELS)) as store:
        for label in LABELS:
            store.append(cost(label))
    path = write(tmp_path, comparison())
    screen = bench("compare", tmp_path / "run", "--with", path).stdout
    assert "trainable_parameters.method" in screen and "equal" in screen and "Not comparable" in screen
    (found,) = json.loads(bench("compare", tmp_path / "run", "--with", path, "--json").stdout)["foreign"]
    assert [row["figure"] for row in found["beside"]] == ["trainable_parameters.method", "delta_bytes"]
    text = bench("compare", tmp_path / "run", "--with", path, "--with", path, "--format", "markdown").stdout
    assert text.count("| lora(rank=8) |") == 4
    refused = bench("compare", tmp_path / "run", "--with", path, "--format", "csv", code=2).stderr
    assert "--format csv holds what differs between runs" in refused
