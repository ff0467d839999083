"""Paraphrase against changed events and swapped roles: content words of the test split never occur in training."""

import random

LABELS = (0, 1)

Lexicon = dict[str, tuple[str, ...]]

TRAIN: Lexicon = {
    "verbs": tuple(  # synonyms stand side by side: 0 and 1, 2 and 3, ...
        "praised commended blamed accused hired employed dismissed fired helped assisted warned alerted "
        "followed pursued questioned interrogated visited saw rescued saved attacked assaulted paid compensated "
        "phoned called mocked ridiculed".split()
    ),
    "people": tuple(
        "doctor lawyer teacher farmer mayor pilot nurse actor baker senator engineer student driver writer judge "
        "guard plumber king thief widow".split()
    ),
    "times": (
        "on Monday", "last week", "in March", "after the trial", "during the storm", "before the election",
        "near the river", "in the park", "at the hotel", "in Boston", "outside the court", "at the airport",
    ),
}  # fmt: skip
TEST: Lexicon = {
    "verbs": tuple(
        "criticised condemned thanked acknowledged defeated beat deceived misled supported backed taught instructed "
        "greeted welcomed injured wounded invited asked".split()
    ),
    "people": tuple(
        "chef banker soldier painter priest scientist tailor detective singer coach minister sailor".split()
    ),
    "times": (
        "on Friday", "last month", "in October", "after the concert", "during the meeting", "at dawn", "in Chicago",
        "near the bridge", "at the museum", "in the garden",
    ),
}  # fmt: skip

CHANGES = {"everything": 40, "roles": 30, "person": 15, "verb": 10, "when": 5}
"""What an unequal pair changes, in percent of such pairs."""

Event = tuple[str, str, str, str]
"""Agent, verb, patient, time or place."""


def _sentence(event: Event, form: int) -> str:
    agent, verb, patient, when = event
    active = f"the {agent} {verb} the {patient}"
    passive = f"the {patient} was {_participle(verb)} by the {agent}"
    clause = active if form < 2 else passive
    text = f"{clause} {when} ." if form % 2 else f"{when} , {clause} ."
    return text[0].upper() + text[1:]


def _participle(verb: str) -> str:
    return {"saw": "seen", "beat": "beaten"}.get(verb, verb)


def _synonym(lexicon: Lexicon, verb: str) -> str:
    return lexicon["verbs"][lexicon["verbs"].index(verb) ^ 1]


def _other(rng: random.Random, words: tuple[str, ...], taken: tuple[str, ...]) -> str:
    return rng.choice([word for word in words if word not in taken])


def _changed(rng: random.Random, lexicon: Lexicon, event: Event) -> Event:
    """Another event: all of it, or only roles, one person, the verb, or time and place differ."""
    agent, verb, patient, when = event
    change = rng.choices(tuple(CHANGES), weights=tuple(CHANGES.values()))[0]
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


def draw(rng: random.Random, lexicon: Lexicon, label: int) -> tuple[str, ...]:
    """Write two sentences, about 24 word pieces together, that report the same event (1) or not (0)."""
    agent, patient = rng.sample(lexicon["people"], 2)
    event: Event = (agent, rng.choice(lexicon["verbs"]), patient, rng.choice(lexicon["times"]))
    other = event if label == 1 else _changed(rng, lexicon, event)
    if rng.random() < 0.4:
        other = (other[0], _synonym(lexicon, other[1]), other[2], other[3])
    first, second = rng.sample(range(4), 2)
    return _sentence(event, first), _sentence(other, second)
