"""Entailment with quantifiers, hypernyms and negation; kinds and deeds of the test split never occur in training."""

import random

LABELS = (0, 1)

Lexicon = dict[str, tuple[str, ...]]

TRAIN: Lexicon = {
    # a kind and the class above it, as "kind:class"
    "kinds": (
        "poodle:dog", "terrier:dog", "salmon:fish", "trout:fish", "rose:flower", "tulip:flower", "sparrow:bird",
        "eagle:bird", "sedan:car", "hammer:tool", "saw:tool", "violin:instrument", "oak:tree", "maple:tree",
    ),
    "deeds": (
        "was found in the yard", "was shown on Monday", "was sold last week", "was moved to the hall",
        "was seen by the visitors", "was hidden behind the wall", "was lost in the storm", "was kept in the dark",
    ),
}  # fmt: skip
TEST: Lexicon = {
    "kinds": (
        "whale:mammal", "carrot:vegetable", "cabbage:vegetable", "apple:fruit", "pear:fruit", "diamond:gem",
        "ruby:gem", "dagger:weapon", "pistol:weapon", "wasp:insect", "beetle:insect", "jacket:garment", "shirt:garment",
    ),
    "deeds": (
        "was stolen at night", "was painted by a student", "was bought on Friday", "was described in the book",
        "was left near the bridge", "was carried to the museum",
    ),
}  # fmt: skip

_UP = ("some", "a", "one", "at least one")
"""Determiners of equal meaning here; under them a kind may be replaced by its class."""
_SCENES = ("", "According to the report , ", "The keeper said that ", "In the end , ")


CHANGES = {"everything": 45, "order": 30, "kind": 13, "deed": 12}
"""What keeps a hypothesis from following, in percent of such rows; "order" turns an entailment round."""

Pair = tuple[str, str]


def _forms(rng: random.Random, kind: str, above: str) -> tuple[Pair, ...]:
    """Subjects of premise and hypothesis such that the second follows; turned round, none of them does.

    Both carry the same kind of determiner, so that determiners alone tell nothing.
    """
    some, other = rng.choice(_UP), rng.choice(_UP)
    return (
        (f"{some} {kind}", f"{other} {above}"),
        (f"every {above}", f"every {kind}"),
        (f"no {above}", f"no {kind}"),
    )


def draw(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """Write a premise and a hypothesis that follows from it (0, entailment) or does not (1)."""
    kind, above = rng.choice(lexicon["kinds"]).split(":")
    deed = rng.choice(lexicon["deeds"])
    first, second = rng.choice(_forms(rng, kind, above))
    told = deed
    if label == 1:
        change = rng.choices(tuple(CHANGES), weights=tuple(CHANGES.values()))[0]
        if change == "order":
            first, second = second, first
        if change in {"kind", "everything"}:
            second = second.replace(*_stranger(rng, lexicon, kind, above, second))
        if change in {"deed", "everything"}:
            told = rng.choice([other for other in lexicon["deeds"] if other != deed])
    premise, hypothesis = f"{rng.choice(_SCENES)}{_article(first)} {deed} .", f"{_article(second)} {told} ."
    return premise[0].upper() + premise[1:], hypothesis[0].upper() + hypothesis[1:]


def _stranger(rng: random.Random, lexicon: Lexicon, kind: str, above: str, subject: str) -> Pair:
    """The noun of ``subject`` and an unrelated noun of the same level."""
    level = 0 if subject.endswith(f" {kind}") else 1
    others = [pair.split(":") for pair in lexicon["kinds"]]
    return (kind, above)[level], rng.choice([other[level] for other in others if other[1] != above])


def _article(subject: str) -> str:
    return f"an {subject[2:]}" if subject.startswith("a ") and subject[2] in "aeiou" else subject
