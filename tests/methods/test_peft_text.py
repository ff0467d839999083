"""A bridged prompt that starts from words: its tokenizer lies here, or the hub is asked for 3 s; no count asks."""

import socket
import time

import pytest
import torch

from bench.errors import BenchError
from bench.registry import make
from methods import peft_text
from tests.methods.families import tiny

WORDS = ("a", "charming", "film", "dull", "and", "long")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer of few words, with ids 5, 6 and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {"[UNK]": 0, "[PAD]": 1} | {word: at for at, word in enumerate(WORDS, start=5)}
    made = Tokenizer(models.WordLevel(vocabulary | {"far": 96}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(place)
    return str(place)


@pytest.fixture(autouse=True)
def asked_anew():
    peft_text._silence.cache_clear()


def spec(name, text="a charming film", length=5, kind="PROMPT_TUNING", **fields):
    values = {"peft_type": kind, "num_virtual_tokens": length, "prompt_tuning_init": "TEXT",
              "prompt_tuning_init_text": text, "tokenizer_name_or_path": name}  # fmt: skip
    return make("peft", values | fields)


def build(name, **fields):
    method, config = spec(name, **fields)
    return method.apply(tiny("bert"), config)


@pytest.mark.parametrize("length", [1, 3, 5, 8])
@pytest.mark.parametrize("text", ["film", "a charming film", "dull and long and dull and long"])
def test_the_prompt_starts_from_the_words_of_the_backbone_over_and_over(no_network, folder, text, length):
    ids = [5 + WORDS.index(word) for word in text.split()]
    wanted = (ids * length)[:length]
    (prompt,) = [p for p in build(folder, text=text, length=length).parameters() if p.requires_grad]
    assert torch.equal(prompt, tiny("bert").get_input_embeddings().weight[wanted])


@pytest.mark.parametrize("name", ["nobody/nothing", "bert-base-uncased", "/no/such/folder", "./nowhere", "a/b/c"])
def test_a_backbone_without_values_needs_no_tokenizer_and_no_network(no_network, name):
    from bench.models import backbone

    method, config = spec(name)
    bare = backbone.load(backbone.shape_of("tiny"), device="meta")
    module = method.apply(bare, config)
    assert [tuple(p.shape) for p in module.parameters() if p.requires_grad] == [(5, 64)]


def test_a_prediction_of_a_start_from_words_asks_nobody(no_network):
    from bench.count.predict import predictions
    from bench.schema.shape import Setting

    start = "prompt_tuning_init='TEXT', prompt_tuning_init_text='a film', tokenizer_name_or_path='nobody/nothing'"
    rows = predictions("tiny", [f"peft(peft_type='PROMPT_TUNING', num_virtual_tokens=5, {start})",
                                "peft(peft_type='PROMPT_TUNING', num_virtual_tokens=5)"],
                       Setting(batch=1, length=8))  # fmt: skip
    assert rows[0].flops == rows[1].flops
    assert rows[0].delta_bytes == rows[1].delta_bytes == 4 * 5 * 64


@pytest.fixture
def hub(monkeypatch):
    """Points the hub's libraries at ``endpoint``, online; the wait is short."""

    def at(endpoint, seconds=0.3):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr(peft_text, "ANSWER_SECONDS", seconds)

    return at


def test_a_silent_hub_costs_the_wait_once_and_one_sentence(hub):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never answers
        hub(f"http://127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(
                BenchError, match=r"'nobody/nothing' is not on this machine .* \(hub not reached\)"
            ) as told:
                build("nobody/nothing")
            assert "\n" not in str(told.value)
        assert time.monotonic() - started < 30  # 0.3 s where nothing else runs; transformers alone takes 95


def test_the_wait_is_no_longer_than_that_of_the_tasks():
    from bench.models.hub import PROBE_SECONDS

    assert peft_text.ANSWER_SECONDS == PROBE_SECONDS == 3.0


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no.such.host.invalid", "nonsense", ""])
def test_a_hub_that_is_not_there_is_one_sentence(hub, endpoint):
    hub(endpoint, seconds=3.0)
    with pytest.raises(
        BenchError, match=r"cannot be fetched from the hub \(hub not reached\); connect to the hub once"
    ):
        build("nobody/nothing")


def test_no_hub_is_asked_where_that_is_forbidden(no_network, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BenchError, match=r"'nobody/nothing' is not on this machine .*HF_HUB_OFFLINE is set"):
        build("nobody/nothing")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "~/tokenizer"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_told_so(no_network, name):
    with pytest.raises(BenchError, match="is neither a folder nor a hub id"):
        build(name)


def test_a_folder_without_a_tokenizer_is_one_sentence(no_network, tmp_path):
    with pytest.raises(BenchError, match="cannot be loaded") as told:
        build(str(tmp_path))
    assert "\n" not in str(told.value)


def test_a_tokenizer_of_another_backbone_is_told_so(no_network, folder):
    with pytest.raises(BenchError, match=r"gives token 96, the backbone has 96; name the tokenizer of the backbone"):
        build(folder, text="a film far")


REFUSED = [
    ({"prompt_tuning_init_text": ""}, "needs words in prompt_tuning_init_text, got ''"),
    ({"prompt_tuning_init_text": "  "}, "needs words in prompt_tuning_init_text"),
    ({"prompt_tuning_init_text": None}, "needs words in prompt_tuning_init_text, got None"),
    ({"prompt_tuning_init_text": 7}, "needs words in prompt_tuning_init_text, got 7"),
    ({"tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote_code is set by the harness"),
    ({"tokenizer_kwargs": {"trust_remote_code": False}}, "trust_remote_code is set by the harness"),
    ({"tokenizer_name_or_path": None}, "tokenizer_name_or_path"),
]


@pytest.mark.parametrize(("fields", "sentence"), REFUSED)
def test_what_no_prompt_can_start_from_is_refused_where_it_is_read(no_network, fields, sentence):
    with pytest.raises(BenchError, match=sentence):
        spec("nobody/nothing", **fields)


def test_a_shadow_of_another_model_is_not_fetched(no_network):
    with pytest.raises(BenchError, match=r"shadow_model = 'some/model' brings the weights of another model"):
        make("peft", {"peft_type": "SHADOW", "shadow_model": "some/model"})


@pytest.mark.parametrize(
    "text", ['{"peft_type": "LORA", "r": 2, "r": 8}', '{"peft_type": "LORA", "rank_pattern": {"q": 1, "q": 2}}']
)
def test_a_saved_configuration_with_one_key_twice_is_refused(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(
        BenchError, match=r"adapter_config.json is no readable JSON file \(the key '\w' is listed twice\)"
    ):
        make("peft", {"adapter_config": str(tmp_path)})
