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
from tests.factories.others import comparison, harness, inference, latency, memory, training, write
from tests.factories.records import cost, score, suite

LABELS = ["full", "lora(rank=8)", "head"]
ON_GPU = {"shape": {"device": "NVIDIA L40S", "clipping": True}, "peak_memory_source": "cuda_allocated"}


def ours(*records):
    return Results(Run.of(Path("run"), suite(methods=LABELS), records))


def lora():
    """A cost of LoRA whose configuration says where it is, as that of every run does."""
    record = cost("lora(rank=8)")
    config = {"rank": 8, "alpha": 16, "dropout": 0, "targets": ["query", "value"], "init": "kaiming"}
    return record.model_copy(update={"method": record.method.model_copy(update={"config": config})})


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
    assert "the test at the end" in alone["train_info.train_time"].why
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


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"target_modules": ["query", "key", "value", "dense"]}, "targets"),
        ({"target_modules": "all-linear"}, "targets"),
        ({"target_modules": 5}, "targets"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"rank_pattern": {"query": 2}}, "rank_pattern"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_what_trains_elsewhere_is_no_method_of_ours_with_the_same_name(config, key, tmp_path):
    values = comparison(num_trainable_params=147_456)
    values["run_info"]["peft_config"] |= config
    found = reading(values, lora(), tmp_path=tmp_path)
    assert not found.beside
    assert {each.key for row in found.apart for each in row.differs} == {key}


@pytest.mark.parametrize("names", [["value", "query"], ["q_proj", "v_proj"], ["q_lin", "v_lin"], ["q", "v"], None])
def test_the_same_maps_by_the_names_of_another_family_are_the_same_targets(names, tmp_path):
    values = comparison()
    nothing = {"modules_to_save": None, "bias": "none", "rank_pattern": {}, "layers_to_transform": None}
    values["run_info"]["peft_config"] |= {"target_modules": names} | nothing
    assert len(reading(values, lora(), tmp_path=tmp_path).beside) == 2


@pytest.mark.parametrize(("optimizer", "same"), [("lora-fa", "lora_fa(rank=8)"), ("lora+", "lora_plus(rank=8)")])
def test_an_optimizer_that_makes_another_method_of_lora_is_of_the_method(optimizer, same, tmp_path):
    values = comparison()
    values["run_info"]["train_config"]["optimizer_type"] = optimizer
    other = cost(same)
    found = reading(values, cost("lora(rank=8)"), other, tmp_path=tmp_path)
    assert {row.method for row in found.beside} == {same}
    values["run_info"]["train_config"]["optimizer_type"] = "AdamW"
    found = reading(values, cost("lora(rank=8)"), other, tmp_path=tmp_path)
    assert {row.method for row in found.beside} == {"lora(rank=8)"}


def test_the_ranks_that_adalora_kept_are_no_setting_and_cut_the_file_alone(tmp_path):
    values = comparison()
    config = {
        "peft_type": "ADALORA",
        "init_r": 12,
        "target_r": 8,
        "rank_pattern": {"layer.0.query.lora_E": [True] * 12},
    }
    values["run_info"]["peft_config"] = config
    found = reading(values, cost("adalora(initial_rank=12, target_rank=8)"), tmp_path=tmp_path)
    assert [row.figure for row in found.beside] == ["trainable_parameters.method"]
    assert "kept" in next(row.why for row in found.alone if row.field == "train_info.file_size")


def test_the_size_that_stands_where_nothing_could_be_saved_is_no_size(tmp_path):
    found = reading(comparison(file_size=99_999_999), cost("lora(rank=8)"), tmp_path=tmp_path)
    assert [row.figure for row in found.beside] == ["trainable_parameters.method"]
    assert "could not be saved" in next(row.why for row in found.alone if row.field == "train_info.file_size")


def test_earlier_files_of_peft_name_memory_for_cuda_and_count_no_parameters(tmp_path):
    values = comparison()
    info, system = values["train_info"], values["meta_info"]["system_info"]
    for key in [key for key in info if key.startswith("accelerator_")]:
        info[key.replace("accelerator_", "cuda_")] = info.pop(key)
    del info["num_trainable_params"], info["num_total_params"]
    system["gpu"] = system.pop("accelerator")
    found = reading(values, cost("lora(rank=8)"), tmp_path=tmp_path)
    assert [row.figure for row in found.beside] == ["delta_bytes"]
    assert found.foreign.setting["device"] == "NVIDIA L40S"
    alone = {row.field: row.value for row in found.alone}
    assert alone["train_info.cuda_memory_max"] == 9_000_000_000
    assert "train_info.num_total_params" not in alone


def test_experiments_on_images_are_not_said_to_be_of_text(tmp_path):
    values = comparison()
    values["run_info"]["train_config"] |= {"resolution": 512, "batch_size_eval": 1}
    tests = {"step": 20, "test dino_similarity": 0.69, "drift": 0.26}
    values["train_info"]["metrics"][-1] = tests
    found = reading(values, cost("lora(rank=8)"), tmp_path=tmp_path)
    assert (found.foreign.setting["objective"], found.foreign.setting["length"]) == ("images", None)
    alone = {row.field: row for row in found.alone}
    assert alone["train_info.metrics.drift"].value == 0.26
    assert alone["train_info.metrics.test dino_similarity"].value == 0.69
    assert not [row.why for row in found.alone if "rows of" in row.why or "larger batches" in row.why]


def test_what_training_made_peft_forget_is_shown_also_where_it_is_less_than_nothing(tmp_path):
    values = comparison()
    values["train_info"]["metrics"][-1]["forgetting"] = -0.01
    found = reading(values, cost("lora(rank=8)"), tmp_path=tmp_path)
    assert {row.field: row.value for row in found.alone}["train_info.metrics.forgetting"] == -0.01


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
        ({"fp16": True}, "dtype"),
        ({"torch_compile": True}, "compiled"),
    ],
)
def test_a_training_step_of_another_form_stands_apart(arguments, key, tmp_path):
    found = reading(training(arguments), cost("lora(rank=8)", **ON_GPU), tmp_path=tmp_path)
    assert not found.beside
    assert {each.key for row in found.apart for each in row.differs} == {key}


@pytest.mark.parametrize(("part", "asked"), [("launcher", {"nproc_per_node": 2}), ("backend", {"device_ids": "0,1"})])
def test_memory_that_is_summed_over_processes_or_devices_stands_apart(part, asked, tmp_path):
    values = training()
    values["config"].setdefault(part, {}).update(asked)
    found = reading(values, cost("lora(rank=8)", **ON_GPU), tmp_path=tmp_path)
    assert not found.beside
    assert {each.key for row in found.apart for each in row.differs} == {"devices"}


@pytest.mark.parametrize("one", [None, "0", 1, [3]])
def test_one_device_is_one_whatever_its_number(one, tmp_path):
    found = reading(training(device_ids=one), cost("lora(rank=8)", **ON_GPU), tmp_path=tmp_path)
    assert len(found.beside) == 2


AUTOCAST = {"shape": ON_GPU["shape"] | {"dtype": "bfloat16_autocast"}, "peak_memory_source": "cuda_allocated"}


@pytest.mark.parametrize(
    ("backend", "arguments", "beside"),
    [
        ({"torch_dtype": "float32"}, {"bf16": True}, 0),  # the frozen weights are float32, ours bfloat16
        ({"torch_dtype": "bfloat16"}, {"bf16": True}, 2),
        ({"torch_dtype": "bfloat16"}, {"fp16": True}, 0),
        ({"torch_dtype": "bfloat16", "autocast_enabled": True, "autocast_dtype": "bfloat16"}, {}, 2),
        ({"torch_dtype": "bfloat16", "autocast_enabled": True}, {}, 0),  # CUDA's own is float16
    ],
)
def test_autocast_is_ours_where_frozen_weights_are_bfloat16_and_so_is_what_it_computes_in(
    backend, arguments, beside, tmp_path
):
    found = reading(training(arguments, **backend), cost("lora(rank=8)", **AUTOCAST), tmp_path=tmp_path)
    assert len(found.beside) == beside


@pytest.mark.parametrize(("adapters", "beside"), [("float32", 2), (None, 0)])
def test_peft_makes_adapters_float32_beside_a_backbone_in_bfloat16(adapters, beside, tmp_path):
    shape = ON_GPU["shape"] | {"dtype": "bfloat16"} | ({"adapter_dtype": adapters} if adapters else {})
    record = cost("lora(rank=8)", shape=shape, peak_memory_source="cuda_allocated")
    found = reading(training(torch_dtype="bfloat16"), record, tmp_path=tmp_path)
    assert len(found.beside) == beside


def test_what_optimum_measured_of_generation_and_images_says_what_it_is(tmp_path):
    values = inference()
    measured = {"latency": latency(0.1), "memory": memory(max_allocated=2.0)}
    names = ("first_generate", "generate", "prefill", "decode", "call", "per_step")
    values["report"] = dict.fromkeys(names, measured)
    alone = {row.field: row.why for row in reading(values, cost("lora(rank=8)"), tmp_path=tmp_path).alone}
    assert "the second call" in alone["report.first_generate.latency.values, median"]
    assert "less the mean of prefill" in alone["report.decode.latency.values, median"]
    assert "prefill among it" in alone["report.decode.memory.max_allocated"]
    assert "of call" in alone["report.call.latency.values, median"]
    assert "report.per_step.memory.max_allocated" in alone


def test_memory_of_the_warm_up_is_that_of_the_whole_training(tmp_path):
    found = reading(training(), cost("lora(rank=8)", **ON_GPU), tmp_path=tmp_path)
    alone = {row.field: row.why for row in found.alone}
    for name in ("overall", "warmup"):
        assert "same number as that of train" in alone[f"report.{name}.memory.max_allocated"]


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


def test_a_score_of_a_group_is_a_mean_over_tasks_and_its_tasks_are_read(tmp_path):
    values = harness(group_subtasks={"both": ["sst2"], "sst2": []})
    values["results"]["both"] = {
        "alias": "both", "name": "both", "sample_len": 872, "acc,none": 0.5, "acc_stderr,none": "N/A",
        "sample_count": {"acc,none": 872},
    }  # fmt: skip
    records = ours(score("lora(rank=8)", "sst2", 0))
    task, group = beside(records, read(write(tmp_path, values)))
    assert [row.field for row in task.apart] == ["results.sst2.acc,none"]
    assert [(row.field, row.why.split(";")[0]) for row in group.alone] == [
        ("results.both.acc,none", "a mean over the tasks of a group")
    ]


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
        (b'{"run_info": {}, "generation_info": {}, "meta_info": {}}', "benchmark of generation, which trains nothing"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(text, said, tmp_path):
    (tmp_path / "bad.json").write_bytes(text)
    with pytest.raises(BenchError, match=said) as caught:
        read(tmp_path / "bad.json")
    assert str(caught.value).startswith(str(tmp_path / "bad.json")) and "\n" not in str(caught.value)


def test_what_is_no_table_is_said_without_a_name_of_this_program(tmp_path):
    values = comparison()
    values["train_info"] = []
    with pytest.raises(BenchError, match=r"train_info = '\[\]' does not fit .* \(it must be a table\)"):
        read(write(tmp_path, values))


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
