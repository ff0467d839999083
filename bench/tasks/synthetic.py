"""Synthetic stand-ins for five GLUE tasks: grammars write their rows, with a fixed seed."""

import functools
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.errors import BenchError
from bench.tasks.rows import Rows

Split = Literal["train", "test"]
Lexicon = dict[str, tuple[str, ...]]
"""Words and phrases by kind."""


class Grammar(NamedTuple):
    """Of one task."""

    labels: tuple[Any, ...]
    draw: Callable[[random.Random, Lexicon, Any], tuple[str, ...]]
    """Writes the texts of a row with the label given last."""
    words: str
    """Table of ``words.toml``."""

    def lexicon(self, split: Split) -> Lexicon:
        """What the rows of a split are written with; its content words are in no row of the other split."""
        tables = _tables()[self.words]
        return {kind: _listed(words) for kind, words in (tables.get("shared", {}) | tables[split]).items()}


@functools.cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))


def _listed(words: str | list[str]) -> tuple[str, ...]:
    return tuple(words.split() if isinstance(words, str) else words)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# Sentiment


def _sst2(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """One sentence of about 16 word pieces whose verdict is ``label`` (1 = positive)."""
    form = rng.choices((_plain, _negated, _contrast), weights=(50, 20, 30))[0]
    sentence = form(rng, lexicon, label == 1)
    setting = rng.choice(lexicon["settings"])
    return (f"{setting} , {sentence} ." if setting else f"{sentence} .",)


def _noun(rng: random.Random, lexicon: Lexicon) -> str:
    return rng.choice(lexicon["parts"] + lexicon["wholes"])


def _adjective(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    return rng.choice(lexicon["good" if positive else "bad"])


def _plain(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    adjective = _adjective(rng, lexicon, positive)
    if rng.random() < 0.3:
        verb = rng.choice(lexicon["pleases" if positive else "fails"])
        return f"the {_noun(rng, lexicon)} {verb} everyone who came for the {_noun(rng, lexicon)}"
    whole, other = lexicon["wholes"], lexicon["wholes"]
    if rng.random() < 0.4:
        return f"a {adjective} {rng.choice(whole)} about the {_noun(rng, lexicon)} of another {rng.choice(other)}"
    degree = rng.choice(lexicon["degrees"])
    return " ".join(f"the {_noun(rng, lexicon)} of this {rng.choice(whole)} is {degree} {adjective}".split())


def _negated(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    adjective = _adjective(rng, lexicon, not positive)
    noun, whole, negator = (_noun(rng, lexicon), rng.choice(lexicon["wholes"]), rng.choice(lexicon["negators"]))
    return f"the {noun} of this {whole} is {negator} {adjective}"


def _contrast(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    """The main clause, or the one after "but", carries the verdict."""
    weak = f"the {rng.choice(lexicon['parts'])} is {_adjective(rng, lexicon, not positive)}"
    strong = f"the {rng.choice(lexicon['wholes'])} is {_adjective(rng, lexicon, positive)}"
    form = rng.choice(("{weak} , but {strong}", "although {weak} , {strong}", "{strong} , even though {weak}"))
    return form.format(weak=weak, strong=strong)


# Acceptability


def _cola(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """One sentence that is acceptable (1) or breaks exactly one rule (0)."""
    violation = "" if label == 1 else rng.choices(("order", "agreement", "government"), weights=(45, 25, 30))[0]
    words = _clause(rng, lexicon, violation)
    if violation == "order":
        words = _shuffled(rng, lexicon, words)
    speaker = rng.choice(("I think that", "everyone knows that", "she said that", "it is true that", ""))
    return (_capital(f"{speaker} {' '.join(words)} {rng.choice(lexicon['when'])} .".strip()),)


def _clause(rng: random.Random, lexicon: Lexicon, violation: str) -> list[str]:
    kind = rng.choice(("transitive", "intransitive", "prepositional"))
    plural = rng.random() < 0.5
    verb = rng.choice(lexicon[kind])
    with_object = kind != "intransitive"
    if violation == "government":
        if kind == "prepositional":
            verb = verb.split()[0]  # "rely the plan"
        else:
            with_object = not with_object  # "sleep the doctor", "admire every day"
    agreeing = plural if violation != "agreement" else not plural
    words = [*_phrase(rng, lexicon, plural), *_inflect(verb, agreeing)]
    return [*words, *_phrase(rng, lexicon, rng.random() < 0.5)] if with_object else words


def _phrase(rng: random.Random, lexicon: Lexicon, plural: bool) -> list[str]:
    noun = rng.choice(lexicon["singular"]) + ("s" if plural else "")
    adjective = [rng.choice(lexicon["adjectives"])] if rng.random() < 0.5 else []
    return ["the", *adjective, noun]


def _inflect(verb: str, plural: bool) -> list[str]:
    head, *rest = verb.split()
    if plural:
        return [head, *rest]
    return [head + ("es" if head.endswith(("sh", "ch", "ss")) else "s"), *rest]


def _shuffled(rng: random.Random, lexicon: Lexicon, words: list[str]) -> list[str]:
    """Move one article behind its noun: every word stays, the order is impossible."""
    places = [i for i, word in enumerate(words) if word == "the"]
    place = rng.choice(places)
    end = next(i for i in range(place + 1, len(words)) if words[i] not in lexicon["adjectives"])
    return [*words[:place], *words[place + 1 : end + 1], "the", *words[end + 1 :]]


# Paraphrase and similarity of events

Event = tuple[str, str, str, str]
"""Agent, verb, patient, time or place."""
EVENT_CHANGES = {"everything": 40, "roles": 30, "person": 15, "verb": 10, "when": 5}
"""What an unequal pair changes, in percent of such pairs."""


def _mrpc(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """Two sentences, about 24 word pieces together, that report the same event (1) or not (0)."""
    event = _event(rng, lexicon)
    other = event if label == 1 else _changed(rng, lexicon, event)
    if rng.random() < 0.4:
        other = (other[0], _synonym(lexicon, other[1]), other[2], other[3])
    first, second = rng.sample(range(4), 2)
    return _reported(event, first), _reported(other, second)


def _stsb(rng: random.Random, lexicon: Lexicon, label: float) -> tuple[str, ...]:
    """Two sentences whose likeness is graded by the parts that they share.

    5: the same event; 4: the verb is a synonym; 3, 2, 1: one, two, three parts differ; 0: all parts differ.
    Half of the 3s swap agent and patient instead, which keeps every word.
    """
    event = _event(rng, lexicon)
    other = list(event)
    if label == 4.0:
        other[1] = _synonym(lexicon, event[1])
    if label == 3.0 and rng.random() < 0.5:
        return _stated(rng, event), _stated(rng, (event[2], event[1], event[0], event[3]))
    for slot in rng.sample(range(4), {5: 0, 4: 0, 3: 1, 2: 2, 1: 3, 0: 4}[round(label)]):
        kind = ("people", "verbs", "people", "times")[slot]
        synonym = (_synonym(lexicon, event[1]),) if slot == 1 else ()
        other[slot] = _other(rng, lexicon[kind], (*event, *synonym))
    return _stated(rng, event), _stated(rng, (other[0], other[1], other[2], other[3]))


def _event(rng: random.Random, lexicon: Lexicon) -> Event:
    agent, patient = rng.sample(lexicon["people"], 2)
    return agent, rng.choice(lexicon["verbs"]), patient, rng.choice(lexicon["times"])


def _changed(rng: random.Random, lexicon: Lexicon, event: Event) -> Event:
    """Another event: all of it, or only roles, one person, the verb, or time and place differ."""
    agent, verb, patient, when = event
    change = rng.choices(tuple(EVENT_CHANGES), weights=tuple(EVENT_CHANGES.values()))[0]
    other_verb = _other(rng, lexicon["verbs"], (verb, _synonym(lexicon, verb)))
    if change == "everything":
        agent, patient = rng.sample([word for word in lexicon["people"] if word not in (agent, patient)], 2)
        return agent, other_verb, patient, when
    if change == "roles":
        return patient, verb, agent, when
    if change == "person":
        stranger = _other(rng, lexicon["people"], (agent, patient))
        return (stranger, verb, patient, when) if rng.random() < 0.5 else (agent, verb, stranger, when)
    if change == "verb":
        return agent, other_verb, patient, when
    return agent, verb, patient, _other(rng, lexicon["times"], (when,))


def _synonym(lexicon: Lexicon, verb: str) -> str:
    return lexicon["verbs"][lexicon["verbs"].index(verb) ^ 1]


def _other(rng: random.Random, words: tuple[str, ...], taken: tuple[str, ...]) -> str:
    return rng.choice([word for word in words if word not in taken])


def _reported(event: Event, form: int) -> str:
    """Active or passive, time or place last or first."""
    agent, verb, patient, when = event
    participle = {"saw": "seen", "beat": "beaten"}.get(verb, verb)
    clause = f"the {agent} {verb} the {patient}" if form < 2 else f"the {patient} was {participle} by the {agent}"
    return _capital(f"{clause} {when} ." if form % 2 else f"{when} , {clause} .")


def _stated(rng: random.Random, event: Event) -> str:
    agent, verb, patient, when = event
    return _capital(
        rng.choice((f"the {agent} {verb} the {patient} {when} .", f"{when} , the {agent} {verb} the {patient} ."))
    )


# Entailment

Pair = tuple[str, str]
FOLLOWING_CHANGES = {"everything": 45, "order": 30, "kind": 13, "deed": 12}
"""What keeps a hypothesis from following, in percent of such rows; "order" turns an entailment round."""


def _rte(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """A premise and a hypothesis that follows from it (0, entailment) or does not (1)."""
    kind, above = rng.choice(lexicon["kinds"]).split(":")
    deed = rng.choice(lexicon["deeds"])
    first, second = rng.choice(_forms(rng, lexicon, kind, above))
    told = deed
    if label == 1:
        change = rng.choices(tuple(FOLLOWING_CHANGES), weights=tuple(FOLLOWING_CHANGES.values()))[0]
        if change == "order":
            first, second = second, first
        if change in {"kind", "everything"}:
            second = second.replace(*_stranger(rng, lexicon, kind, above, second))
        if change in {"deed", "everything"}:
            told = _other(rng, lexicon["deeds"], (deed,))
    premise = f"{rng.choice(lexicon['scenes'])}{_article(first)} {deed} ."
    return _capital(premise), _capital(f"{_article(second)} {told} .")


def _forms(rng: random.Random, lexicon: Lexicon, kind: str, above: str) -> tuple[Pair, ...]:
    """Subjects of premise and hypothesis such that the second follows; turned round, none of them does.

    Both carry the same kind of determiner, so that determiners alone tell nothing. Under those of ``up``, equal in
    meaning here, a kind may be replaced by its class.
    """
    some, other = rng.choice(lexicon["up"]), rng.choice(lexicon["up"])
    return (
        (f"{some} {kind}", f"{other} {above}"),
        (f"every {above}", f"every {kind}"),
        (f"no {above}", f"no {kind}"),
    )


def _stranger(rng: random.Random, lexicon: Lexicon, kind: str, above: str, subject: str) -> Pair:
    """The noun of ``subject`` and an unrelated noun of the same level."""
    level = 0 if subject.endswith(f" {kind}") else 1
    others = [pair.split(":") for pair in lexicon["kinds"]]
    return (kind, above)[level], rng.choice([other[level] for other in others if other[1] != above])


def _article(subject: str) -> str:
    return f"an {subject[2:]}" if subject.startswith("a ") and subject[2] in "aeiou" else subject


GRAMMARS = {
    "sst2": Grammar((0, 1), _sst2, "sst2"),
    "cola": Grammar((0, 1), _cola, "cola"),
    "mrpc": Grammar((0, 1), _mrpc, "mrpc"),
    "rte": Grammar((0, 1), _rte, "rte"),
    "stsb": Grammar((0.0, 1.0, 2.0, 3.0, 4.0, 5.0), _stsb, "mrpc"),
}
"""By task."""


SYNTHETIC_TASKS = tuple(GRAMMARS)
"""Tasks that have a grammar."""

TRAIN_ROWS = 4000
"""Rows of every training pool."""
TEST_ROWS = 800
"""Rows of every test pool."""


def require_synthetic(names: tuple[str, ...], why: str = "") -> None:
    """Refuse tasks that have no synthetic stand-in; ``why`` says what made the data synthetic.

    Raises:
        BenchError: Names the tasks without one and the ``--tasks`` line that works.
    """
    missing = [name for name in names if name not in SYNTHETIC_TASKS]
    if missing:
        ready = [name for name in names if name in SYNTHETIC_TASKS] or list(SYNTHETIC_TASKS)
        raise BenchError(
            f"data is synthetic{f' ({why})' if why else ''} and {', '.join(missing)} has no synthetic stand-in; "
            f"use --tasks {','.join(ready)}, or real data with --data DIR"
        )


@functools.lru_cache(maxsize=2 * len(SYNTHETIC_TASKS))
def rows(name: str, split: Split) -> Rows:
    """All rows of one split of synthetic task ``name``: balanced over labels, no row twice, the same on every machine.

    Raises:
        BenchError: The task has no synthetic stand-in.
    """
    require_synthetic((name,))
    grammar = GRAMMARS[name]
    rng = random.Random(f"peft-ledger {name} {split}")  # a text seed is hashed with sha512: equal on every platform
    lexicon, wanted = grammar.lexicon(split), TRAIN_ROWS if split == "train" else TEST_ROWS
    found: dict[tuple[str, ...], int | float] = {}
    while len(found) < wanted:
        label = grammar.labels[len(found) % len(grammar.labels)]
        found.setdefault(grammar.draw(rng, lexicon, label), label)
    return Rows(tuple(found), tuple(found.values()))
