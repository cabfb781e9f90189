"""Camera moves as a user writes them: one, or several after each other, as rigs for each frame."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.controls.moves import ALIASES, ELSEWHERE, MOVES, RECAMMASTER, Move, Rig, rig_at_start
from stp_jax.errors import InputError

MOST_DEGREES = 3600.0  # ten turns
MOST_MOVES = 100
SUMMARIES = {name: move.summary for name, move in MOVES.items()}

# How much of the way is done after a part q = 0..1 of the time.
EASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda q: q,
    "ease": lambda q: q * q * (3 - 2 * q),
    "ease_in": lambda q: q * q,
    "ease_out": lambda q: q * (2 - q),
}
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)%")


class Part(NamedTuple):
    """One move of a chain."""

    name: str  # as it is called here
    text: str  # with its numbers
    move: Move
    amount: float | None  # None: the default
    start: float
    ease: str
    span: tuple[float, float]  # of the video, 0 to 1

    def follow(self, rig: Rig, progress: np.ndarray, distance: float) -> Rig:
        """The rigs after a progress of 0..1 [n], from the rig [1] where the move begins."""
        zoom = self.move.unit == "factor"
        amount = self.move.amount * (distance if self.move.unit == "metres" else 1)
        amount = amount if self.amount is None else self.amount
        q = EASES[self.ease](progress)
        v = self.start * amount**q if zoom else self.start + amount * q
        made = self.move.motion(rig, v, self.start)
        return Rig(*(np.broadcast_to(field, (len(q), *field.shape[1:])) for field in made))


def parse(spec: str) -> list[Part]:
    """The moves of `name:amount:start SHARE EASE, ...`; see `cameras.preset`. Raises `InputError`."""
    texts = spec.split(",")
    if len(texts) > MOST_MOVES:
        raise InputError(f"camera {user_input.short(spec)}: more than {MOST_MOVES} moves")
    several = len(texts) > 1
    parts, shares = [], []
    for number, text in enumerate(texts):
        where = f"camera {user_input.short(spec)}"
        if several:
            where += f": move {number + 1}"
        words = text.split()
        share, ease = None, None
        while len(words) > 1 and (_SHARE.fullmatch(words[-1]) or words[-1] in EASES):
            word = words.pop()
            if word in EASES:
                ease = _once(ease, word, where)
            else:
                share = _once(share, word, where)
        part = _one(" ".join(words), where, several, later=number > 0)
        parts.append(part._replace(ease=ease or ("ease" if several else "linear")))
        shares.append(None if share is None else float(share[:-1]) / 100)
    edges = _edges(shares, f"camera {user_input.short(spec)}")
    spans = zip(edges[:-1], edges[1:], strict=True)
    return [part._replace(span=span) for part, span in zip(parts, spans, strict=True)]


def _once(before: str | None, word: str, where: str) -> str:
    if before is not None:
        raise InputError(f"{where}: {before} and {word}; give one")
    return word


def _edges(shares: list[float | None], where: str) -> list[float]:
    """Where moves begin and end, 0 to 1; those without a share have equal parts of what is left."""
    given = sum(share for share in shares if share is not None)
    free = shares.count(None)
    if any(share == 0 for share in shares) or given > 1.0005 or (free and given > 0.9995):
        raise InputError(f"{where}: the shares are {given * 100:.4g} % in all, and each move needs one")
    if not free and given < 0.9995:
        raise InputError(
            f"{where}: the shares are {given * 100:.4g} % in all, not 100 %; add a hold, or leave one out"
        )
    left = (1 - given) / free if free else 0.0
    edges = np.cumsum([0.0, *(left if share is None else share for share in shares)])
    return [*map(float, edges[:-1]), 1.0]


def _one(text: str, where: str, several: bool, later: bool) -> Part:
    """A move `name:amount:start`, over the whole video."""
    name, *numbers = [part.strip() for part in text.split(":")]
    plain = re.sub(r"[\s-]+", "_", name[:100].lower())
    if plain == "recammaster":
        return _one(_recammaster(numbers, where), where, several, later)
    plain = ALIASES.get(plain, plain)
    if plain not in MOVES:
        error = user_input.unknown("camera preset", name, SUMMARIES, ELSEWHERE)
        raise InputError(f"{where}: {error}") if several else error
    move = MOVES[plain]
    zoom = move.unit == "factor"
    if len(numbers) > (2 if move.unit else 0):
        form = f"{plain}:amount:start" if move.unit else plain
        raise InputError(f"{where}: too many numbers; the longest form is {form}")
    values: list[float] = []
    for number in numbers:
        value = user_input.number(number)
        if value is None and len(number.split()) > 1:
            raise InputError(
                f"{where}: {user_input.short(number.split()[-1], 40)} is neither a share of the video, "
                f"as 50%, nor one of {', '.join(EASES)}"
            )
        if value is None or (zoom and value <= 0):
            unit = f": write {plain}:{move.amount:g}, in {move.unit}" if not zoom else ""
            kind = "positive number" if zoom else "number"
            raise InputError(f"{where}: {user_input.short(number, 40)} is not a {kind}{unit}")
        if move.unit == "degrees" and abs(value) > MOST_DEGREES:
            raise InputError(f"{where}: {value:g} degrees are too many; at most {MOST_DEGREES:g}")
        values.append(value)
    if later and len(values) > 1:
        raise InputError(f"{where}: begins where the move before it ends: leave its start, {numbers[1]}, out")
    amount = values[0] if values else None
    start = values[1] if len(values) > 1 else 1.0 if zoom else 0.0
    return Part(plain, ":".join([plain, *numbers]), move, amount, start, "linear", (0.0, 1.0))


def _recammaster(numbers: list[str], where: str) -> str:
    chosen = numbers[0] if len(numbers) == 1 else ""
    if not chosen.isdecimal() or not 1 <= int(chosen[:3]) <= len(RECAMMASTER):
        listed = ", ".join(f"{i + 1} {move}" for i, move in enumerate(RECAMMASTER))
        raise InputError(f"{where}: write recammaster:1 to recammaster:{len(RECAMMASTER)}: {listed}")
    return RECAMMASTER[int(chosen) - 1]


def follow(parts: list[Part], frames: int, distance: float) -> Rig:
    """The rigs of F frames; frame i is at i / (F - 1) of the chain. Raises `InputError` for a dolly zoom
    that reaches the pivot."""
    place = np.linspace(0, 1, frames)
    which = np.searchsorted([part.span[1] for part in parts[:-1]], place, side="right")
    rig, made = rig_at_start(distance), []
    for number, part in enumerate(parts):
        begin, end = part.span
        progress = np.clip((place[which == number] - begin) / (end - begin), 0, 1)
        rigs = part.follow(rig, np.append(progress, 1.0), distance)
        if not (rigs.zoom > 0).all():
            raise InputError(
                f"camera {part.text}: the pivot is {rig.distance[0]:g} m away, and a lens cannot keep its "
                "size from there on"
            )
        made.append(Rig(*(field[:-1] for field in rigs)))
        rig = Rig(*(field[-1:] for field in rigs))
    return Rig(*(np.concatenate(fields) for fields in zip(*made, strict=True)))


def describe(spec: str, frames: int) -> list[str]:
    """What moves are called here and when they are, as lines to print; none where `spec` says it itself."""
    parts = parse(spec)
    if len(parts) == 1:
        plain = parts[0].text == re.sub(r"\s", "", spec.split(" ")[0])
        return [] if plain else [f"  here {parts[0].text}"]
    edges = [[f"{place * (frames - 1):.3g}" for place in part.span] for part in parts]
    listed = (f"{p.text} {begin}-{end} ({p.ease})" for p, (begin, end) in zip(parts, edges, strict=True))
    return [f"  by frames: {', '.join(listed)}"]
