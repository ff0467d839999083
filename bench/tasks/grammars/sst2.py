"""Sentiment with negation and contrast: words of the test split never occur in training; holds no real review."""

import random

LABELS = (0, 1)

Lexicon = dict[str, tuple[str, ...]]

TRAIN: Lexicon = {
    "good": tuple(
        "wonderful charming brilliant delightful touching funny superb engaging clever beautiful moving gripping witty "
        "fresh inspired thrilling warm elegant captivating excellent powerful graceful smart lovely rewarding "
        "amusing".split()
    ),
    "bad": tuple(
        "awful boring terrible clumsy stupid tedious dull weak ugly annoying lifeless shallow predictable messy bland "
        "painful pointless ridiculous tiresome hollow lazy sloppy confused dreary cheap unpleasant".split()
    ),
    "pleases": tuple("delights charms moves amuses thrills impresses rewards inspires".split()),
    "fails": tuple("bores annoys disappoints irritates offends exhausts insults frustrates".split()),
}
TEST: Lexicon = {
    "good": tuple(
        "fantastic hilarious heartfelt masterful enchanting terrific magnificent uplifting splendid absorbing "
        "remarkable stunning endearing marvelous poignant exciting lively fascinating sincere outstanding".split()
    ),
    "bad": tuple(
        "horrible dreadful lousy mediocre pathetic stale insipid awkward forgettable atrocious silly gloomy "
        "disastrous laughable repetitive uninspired irritating soulless unbearable disappointing".split()
    ),
    "pleases": tuple("enchants entertains captivates uplifts fascinates pleases".split()),
    "fails": tuple("disgusts alienates fatigues infuriates saddens repels".split()),
}

_PARTS = tuple(
    "plot script dialogue cast story acting direction music pacing ending photography humor opening finale soundtrack "
    "premise editing romance villain".split()
)
_WHOLES = ("film", "movie", "picture", "drama", "comedy", "sequel", "remake", "documentary", "thriller", "debut")
_DEGREES = ("", "", "really", "quite", "truly", "rather", "very", "at times", "from start to finish")
_NEGATORS = ("not", "never", "hardly", "far from", "anything but", "by no means")
_SETTINGS = (
    "", "on the whole", "in the end", "to me", "like most of his work", "for a late summer release",
    "after the first hour", "on a second viewing",
)  # fmt: skip


def _noun(rng: random.Random) -> str:
    return rng.choice(_PARTS + _WHOLES)


def _adjective(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    return rng.choice(lexicon["good" if positive else "bad"])


def _plain(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    adjective = _adjective(rng, lexicon, positive)
    if rng.random() < 0.3:
        verb = rng.choice(lexicon["pleases" if positive else "fails"])
        return f"the {_noun(rng)} {verb} everyone who came for the {_noun(rng)}"
    if rng.random() < 0.4:
        return f"a {adjective} {rng.choice(_WHOLES)} about the {_noun(rng)} of another {rng.choice(_WHOLES)}"
    degree = rng.choice(_DEGREES)
    return " ".join(f"the {_noun(rng)} of this {rng.choice(_WHOLES)} is {degree} {adjective}".split())


def _negated(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    adjective = _adjective(rng, lexicon, not positive)
    return f"the {_noun(rng)} of this {rng.choice(_WHOLES)} is {rng.choice(_NEGATORS)} {adjective}"


def _contrast(rng: random.Random, lexicon: Lexicon, positive: bool) -> str:
    """The main clause, or the one after "but", carries the verdict."""
    weak = f"the {rng.choice(_PARTS)} is {_adjective(rng, lexicon, not positive)}"
    strong = f"the {rng.choice(_WHOLES)} is {_adjective(rng, lexicon, positive)}"
    form = rng.choice(("{weak} , but {strong}", "although {weak} , {strong}", "{strong} , even though {weak}"))
    return form.format(weak=weak, strong=strong)


def draw(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """Write one sentence of about 16 word pieces whose verdict is ``label`` (1 = positive)."""
    form = rng.choices((_plain, _negated, _contrast), weights=(50, 20, 30))[0]
    sentence = form(rng, lexicon, label == 1)
    setting = rng.choice(_SETTINGS)
    return (f"{setting} , {sentence} ." if setting else f"{sentence} .",)
