"""Graded similarity of two events, 0 to 5 by what they share; content words of the test split are new."""

import random

from bench.tasks.grammars.mrpc import TEST, TRAIN, Lexicon

__all__ = ["LABELS", "TEST", "TRAIN", "draw"]

LABELS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)

Event = tuple[str, str, str, str]
"""Agent, verb, patient, time or place."""


def _sentence(rng: random.Random, event: Event) -> str:
    agent, verb, patient, when = event
    text = rng.choice((f"the {agent} {verb} the {patient} {when} .", f"{when} , the {agent} {verb} the {patient} ."))
    return text[0].upper() + text[1:]


def _fresh(rng: random.Random, lexicon: Lexicon, event: Event, slot: int) -> str:
    """Another filler for one slot of the event; another verb is no synonym of the first."""
    words = lexicon[("people", "verbs", "people", "times")[slot]]
    taken = set(event)
    if slot == 1:
        taken.add(words[words.index(event[1]) ^ 1])
    return rng.choice([word for word in words if word not in taken])


def draw(rng: random.Random, lexicon: Lexicon, label: float) -> tuple[str, ...]:
    """Write two sentences whose likeness is graded by the parts that they share.

    5: the same event; 4: the verb is a synonym; 3, 2, 1: one, two, three parts differ; 0: all parts differ.
    Half of the 3s swap agent and patient instead, which keeps every word.
    """
    agent, patient = rng.sample(lexicon["people"], 2)
    event: Event = (agent, rng.choice(lexicon["verbs"]), patient, rng.choice(lexicon["times"]))
    other = list(event)
    if label == 4.0:
        other[1] = lexicon["verbs"][lexicon["verbs"].index(event[1]) ^ 1]
    if label == 3.0 and rng.random() < 0.5:
        return _sentence(rng, event), _sentence(rng, (event[2], event[1], event[0], event[3]))
    for slot in rng.sample(range(4), {5: 0, 4: 0, 3: 1, 2: 2, 1: 3, 0: 4}[round(label)]):
        other[slot] = _fresh(rng, lexicon, event, slot)
    return _sentence(rng, event), _sentence(rng, (other[0], other[1], other[2], other[3]))
