"""Acceptability: agreement, word order and what a verb may govern; nouns and verbs of the test split are new."""

import random

LABELS = (0, 1)

Lexicon = dict[str, tuple[str, ...]]

TRAIN: Lexicon = {
    "singular": tuple(
        "doctor lawyer teacher farmer pilot nurse actor baker senator engineer student driver writer judge".split()
    ),
    "transitive": ("admire", "praise", "describe", "avoid", "ignore", "surprise", "frighten", "resemble", "mention"),
    "intransitive": ("sleep", "arrive", "laugh", "smile", "vanish", "faint", "sneeze", "yawn"),
    "prepositional": ("rely on", "look at", "wait for", "listen to", "belong to", "complain about"),
    "adjectives": ("old", "young", "tall", "famous", "quiet", "rich"),
}
TEST: Lexicon = {
    "singular": tuple("chef banker soldier painter priest scientist tailor singer coach minister sailor".split()),
    "transitive": ("respect", "support", "invite", "blame", "annoy", "scare", "greet", "accuse"),
    "intransitive": ("cough", "disappear", "kneel", "weep", "snore", "blush"),
    "prepositional": ("depend on", "stare at", "hope for", "talk to", "apologize for", "shout at"),
    "adjectives": ("clever", "angry", "poor", "polite", "shy"),
}
_WHEN = ("every day", "in the evening", "at the station", "after the show", "on Sundays", "near the old bridge")


def _phrase(rng: random.Random, lexicon: Lexicon, plural: bool) -> list[str]:
    noun = rng.choice(lexicon["singular"]) + ("s" if plural else "")
    adjective = [rng.choice(lexicon["adjectives"])] if rng.random() < 0.5 else []
    return ["the", *adjective, noun]


def _inflect(verb: str, plural: bool) -> list[str]:
    head, *rest = verb.split()
    if plural:
        return [head, *rest]
    return [head + ("es" if head.endswith(("sh", "ch", "ss")) else "s"), *rest]


def _shuffled(rng: random.Random, words: list[str]) -> list[str]:
    """Move one article behind its noun: every word stays, the order is impossible."""
    places = [i for i, word in enumerate(words) if word == "the"]
    place = rng.choice(places)
    end = next(i for i in range(place + 1, len(words)) if words[i] not in _ADJECTIVES)
    return [*words[:place], *words[place + 1 : end + 1], "the", *words[end + 1 :]]


_ADJECTIVES = frozenset(TRAIN["adjectives"] + TEST["adjectives"])


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


def draw(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """Write one sentence that is acceptable (1) or breaks exactly one rule (0)."""
    violation = "" if label == 1 else rng.choices(("order", "agreement", "government"), weights=(45, 25, 30))[0]
    words = _clause(rng, lexicon, violation)
    if violation == "order":
        words = _shuffled(rng, words)
    speaker = rng.choice(("I think that", "everyone knows that", "she said that", "it is true that", ""))
    text = f"{speaker} {' '.join(words)} {rng.choice(_WHEN)} .".strip()
    return (text[0].upper() + text[1:],)
