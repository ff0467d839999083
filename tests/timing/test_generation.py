"""What writing takes, counted and timed: merged is the base, all else has its price, and the cache is what it holds."""

import copy
import functools
import json
from types import SimpleNamespace

import pytest
import torch

from bench.count.fake import fake_like, fakeify, without_data
from bench.count.memory import Tracker
from bench.errors import BenchError
from bench.models.generation import cache_bytes, decode, prefill
from bench.plan.load import parse_suite
from bench.plan.planner import make_plan
from bench.registry import make
from bench.schema.figures import read
from bench.schema.jobs import Probe
from bench.schema.record import CacheSize
from bench.timing.generation import check_cache, count_context, generation_arm, generation_figures
from bench.timing.inference import deploy
from bench.timing.models import Models
from bench.timing.probe import run_probe
from methods import BUILTIN
from tests.factories.methods import METHODS
from tests.methods.families import CONFIGS
from tests.methods.peft_types import suited
from tests.models.test_generation import adapted, pristine, prompts, under_head

CONTEXTS = (4, 12)
HERE = [name for name in BUILTIN if "llama" not in METHODS[name].refused]
FREE = [name for name in HERE if METHODS[name].merges]


def row(tokens: int) -> torch.Tensor:
    return prompts(1, tokens)


@functools.cache
def base_counts(family: str = "llama") -> dict:
    model = under_head(copy.deepcopy(pristine(family)), family)
    return {tokens: count_context(model, row(tokens)) for tokens in CONTEXTS}


def figures_of(name: str, family: str = "llama") -> dict:
    method, body = adapted(family, name)
    return generation_figures(base_counts(family), deploy(method, body, under_head(body, family).head), row)


@pytest.mark.parametrize("name", FREE)
def test_merged_is_the_base_exactly(name: str) -> None:
    found = figures_of(name)
    for field in ("prefill", "decode", "kv_cache"):
        assert found[field].merged == found[field].base


@pytest.mark.parametrize("name", [name for name in HERE if name not in FREE or name in ("lora", "dora", "ia3")])
def test_unmerged_has_its_price_in_every_decode_step(name: str) -> None:
    found = figures_of(name)
    for key, base in found["decode"].base.items():
        ours = found["decode"].unmerged[key]
        dearer = ours.operations > base.operations or ours.flops > base.flops
        assert dearer, "what stands in front of the tokens is read by every attention"
        assert ours.operations >= base.operations and ours.depth >= base.depth and ours.flops >= base.flops


def test_a_prefix_in_the_cache_adds_no_operation_but_its_keys_to_a_decode_step() -> None:
    found = figures_of("p_tuning_v2")
    base, ours = (found["decode"].base["context_12"], found["decode"].unmerged["context_12"])
    layers, heads, width, prefix = 2, 4, 8, 3
    assert (ours.operations, ours.depth) == (base.operations, base.depth)
    assert ours.flops - base.flops == layers * 2 * 2 * heads * width * prefix


def test_a_decode_step_does_not_grow_but_by_its_attention() -> None:
    short, long = (base_counts()[tokens].decode for tokens in CONTEXTS)
    layers, heads, width = 2, 4, 8
    assert short.operations == long.operations
    assert long.flops - short.flops == layers * 2 * 2 * heads * width * (CONTEXTS[1] - CONTEXTS[0])


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("name", ["full", "prompt_tuning", "prefix_tuning", "lst"])
def test_counted_bytes_are_those_of_the_cache(name: str, family: str) -> None:
    model = under_head(adapted(family, name)[1], family)
    with torch.no_grad():
        told = prefill(model, row(12))
        held = cache_bytes(told.cache)
        more = cache_bytes(decode(model, row(1), told.cache).cache)
    assert count_context(model, row(12)).cache == CacheSize(bytes=held, bytes_per_token=more - held)


@pytest.mark.parametrize("name", ["full", "lora", "prompt_tuning", "prefix_tuning", "lst"])
def test_what_stays_in_memory_of_a_decode_step_is_the_cache_that_was_counted(name: str) -> None:
    method, body = adapted("llama", name)
    model, ids, tracker = under_head(method.finalize(body), "llama"), row(12), Tracker(rounding=1)
    tracker.seed([*model.parameters(), *model.buffers(), ids])
    before = tracker.current
    with torch.no_grad(), tracker:
        cache = prefill(model, ids).cache
        held = tracker.current - before
        cache = decode(model, ids[:, -1:], cache).cache
        more = tracker.current - before - held
    assert count_context(model, ids).cache == CacheSize(bytes=held, bytes_per_token=more)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("name", ["full", "lora", "houlsby_adapter", "prompt_tuning", "prefix_tuning", "lst"])
def test_writing_without_data_is_counted_as_with(name: str, family: str) -> None:
    model = under_head(adapted(family, name)[1], family)
    real = count_context(model, row(12))
    with without_data():
        fakeify(model)
        assert count_context(model, fake_like(row(12))) == real


def test_a_cache_of_two_networks_is_counted_whole() -> None:
    bare = count_context(under_head(copy.deepcopy(pristine("llama")), "llama"), row(12)).cache
    method, config = make("peft", suited("SHADOW", "llama"))
    body = method.apply(copy.deepcopy(pristine("llama")), config).eval()
    found = count_context(under_head(body, "llama"), row(12)).cache
    assert found.bytes > bare.bytes and found.bytes_per_token > bare.bytes_per_token
    assert found.bytes == 12 * found.bytes_per_token


def test_a_cache_without_keys_that_can_be_found_has_no_size() -> None:
    with pytest.raises(BenchError, match=r"no keys and values are found in the method's KV cache \(SimpleNamespace\)"):
        cache_bytes(SimpleNamespace(layers=[]))


class Forgetful(torch.nn.Module):
    """Reads the last token alone, whatever its cache holds."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: torch.Tensor, past_key_values: object = None, **kwargs: object) -> object:
        return self.body(input_ids=input_ids, **kwargs)


def test_a_method_that_forgets_its_cache_has_no_figures() -> None:
    model = under_head(Forgetful(copy.deepcopy(pristine("llama"))), "llama")
    with pytest.raises(BenchError, match="with a KV cache the method computes something else than without: logits"):
        check_cache(model, row(6))


def test_a_method_that_looks_ahead_has_no_figures() -> None:
    """LILY of peft weighs its experts by the mean over all tokens: what is read later changes what came before."""
    model = under_head(adapted("llama", "peft", suited("LILY", "llama"))[1], "llama")
    with pytest.raises(BenchError, match="with a KV cache the method computes something else than without: logits"):
        check_cache(model, row(6))


def test_a_text_that_changes_from_run_to_run_is_an_error() -> None:
    models = iter([under_head(adapted("llama", "lora", noise=noise)[1], "llama") for noise in (0.1, 1.0)])
    arm = generation_arm("lora", lambda: next(models), prompts(), 6, "cpu")
    assert {*arm.run()} == {"prefill", "decode"}
    with pytest.raises(ArithmeticError, match="lora writes another text in two runs"):
        arm.run()


def suite_of(folder, family="llama", claims=(), methods=("full", "lora", "lst"), **cost):
    model_type, values = CONFIGS[family]
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **values}))
    own = {"lora": {"rank": 2}, "lst": {"reduction": 4}}
    tables = [{"name": name, "config": own[name]} if name in own else {"name": name} for name in methods]
    shape = {"batch": 1, "length": 8, "latency_batches": [], "latency_length": 8,
             "generation": {"contexts": [4, 12], "batches": [1, 2], "new_tokens": 3}}  # fmt: skip
    if cost.get("timed", True):
        shape |= {"blocks": 2, "extra_seconds": 0.0}
    else:
        shape["generation"].pop("batches")
    values = {
        "name": "writes", "question": "?", "method": tables, "claim": list(claims),
        "backbone": {"name": str(folder / "config.json"), "weights": "random"}, "cost": [shape | cost],
    }  # fmt: skip
    return parse_suite(values, str(folder / "suite.toml"))


def test_a_probe_counts_and_times_what_its_suite_asks_for(tmp_path) -> None:
    (planned,) = make_plan(suite_of(tmp_path), "suite.toml", "cpu").probes
    probe = Probe.model_validate_json(planned.model_dump_json())  # as a worker reads it
    assert probe == planned
    records = {record.method.name: record for record in run_probe(probe)}
    assert {record.status for record in records.values()} == {"ok"}, [r.reason for r in records.values()]
    for name, record in records.items():
        assert record.warnings == () and record.new_tokens == 3
        assert record.decode.base == records["full"].decode.base
        assert (record.decode.merged is None) == (name == "lst")
        for field in ("prefill_seconds", "decode_seconds"):
            times = getattr(record, field)
            for mode in ("base", "unmerged", *(["merged"] if name != "lst" else [])):
                assert [*getattr(times, mode)] == ["context_4", "context_12"]
                assert [[*held.by_batch] for held in getattr(times, mode).values()] == [[1, 2], [1, 2]]
                timing = read(record, f"{field}.{mode}.context_12.batch_2")
                assert timing.median > 0 and len(timing.samples) == 2
        assert {f"{p}_context_{c}_batch_{b}" for p in ("prefill", "decode") for c in (4, 12) for b in (1, 2)} <= {
            *record.aa_control
        }


@pytest.mark.parametrize("name", ["full", "lora"])
def test_merged_in_bfloat16_is_the_base_too_positions_among_it(tmp_path, name) -> None:
    suite = suite_of(tmp_path, dtype="bfloat16", timed=False)
    (probe,) = make_plan(suite, "suite.toml", "cpu").probes
    models = Models(probe)
    base, deployed = models.base(), models.deployed("lora(rank=2)" if name == "lora" else name)
    assert {p.dtype for p in deployed.unmerged.parameters()} == {torch.bfloat16}
    for (at, ours), (_, theirs) in zip(deployed.merged.named_buffers(), base.named_buffers(), strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype, at
    assert count_context(deployed.merged, models.row(6)) == count_context(base, models.row(6))


REFUSED = [
    ("bert", {}, r"cost\[0\]\.generation: text is written under .* family 'bert' is an encoder: name a decoder"),
    ("llama", {"objective": "classes"}, r"cost\[0\]\.generation: text is written under .* set objective = 'text'"),
    *((family, {}, rf"cost\[0\]\.generation: it is measured of decoders, and family '{kind}' has an encoder beside its "
       r"own; name a decoder such as gpt2") for family, kind in (("t5_whole", "t5"), ("bart", "bart"))),
    ("gpt2", {"generation": {"contexts": [63], "new_tokens": 2}}, r"65 tokens need 65 positions, the backbone has 64; "
     r"generation: a context with its new_tokens of 64 is the longest"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "sentence"), REFUSED)
def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path, family, changes, sentence) -> None:
    from bench.count.predict import check_fit

    with pytest.raises(BenchError, match=sentence):
        check_fit(make_plan(suite_of(tmp_path, family, **changes), "suite.toml", "cpu"))


def test_a_prompt_leaves_its_positions_to_what_is_written(tmp_path) -> None:
    with pytest.raises(BenchError, match=r"a prompt of 20 and 50 tokens need 70 positions, the backbone has 64"):
        suite = suite_of(tmp_path, "gpt2", methods=("full", "prompt_tuning"),
                         generation={"contexts": [48], "new_tokens": 2})  # fmt: skip
        (probe,) = make_plan(suite, "suite.toml", "cpu").probes
        Models(probe).adapt("prompt_tuning")


def test_a_generation_lists_each_size_once(tmp_path) -> None:
    with pytest.raises(BenchError, match=r"generation.contexts lists a value twice; list each once"):
        suite_of(tmp_path, generation={"contexts": [4, 4]})


def claim(**values):
    return {"name": "c", "says": "a sentence", "method": "lora(rank=2)", "versus": "base"} | values


def test_a_claim_about_decoding_is_asked_of_its_context_and_batch(tmp_path) -> None:
    claims = [claim(metric="decode_seconds.merged.context_12.batch_2", equivalent_within=0.03),
              claim(name="d", metric="decode.merged.context_12.operations", ratio={"max": 1.0})]  # fmt: skip
    (probe,) = make_plan(suite_of(tmp_path, claims=claims), "suite.toml", "cpu").probes
    (bound,) = probe.bounds
    assert (bound.phase, bound.context, bound.batch, bound.merged, bound.equivalence) == ("decode", 12, 2, True, True)
