"""What the units of a sequence model do at each position of a text (Karpathy, Johnson, Fei-Fei 2015)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ortoscope import resource_names
from ortoscope.activations import Selection, activate
from ortoscope.errors import FailedPrecondition, InvalidArgument
from ortoscope.files import write_file
from ortoscope.rpcs import Rpcs
from ortoscope.tensors import dtype_of
from ortoscope.v1 import models_pb2, provenance_pb2

Array = npt.NDArray[Any]

LENGTH = 2048
"""Tokens that a model of free length is given at once."""

CONTEXT = 256
"""Tokens before a stretch that are given with it, so that the model knows what came before."""

_ANSWER_SHARE = 0.5
"""Share of the message limit that the activations of one request may fill."""

_UNLIMITED_BYTES = 4 * 1024 * 1024
"""What to ask for at once where the server states no limit: gRPC's own default."""

_UNITS_IF_UNKNOWN = 1024
"""Units that a tap is taken to have if that is not known before the model runs."""


@dataclass(frozen=True)
class Vocabulary:
    """The characters that the tokens of a model stand for; a token is an index.

    Raises:
        InvalidArgument: VOCABULARY_UNFIT: a piece is not one character, or stands twice.
    """

    characters: tuple[str, ...]
    """The character of each token."""

    def __post_init__(self) -> None:
        wrong = next((piece for piece in self.characters if len(piece) != 1), None)
        if wrong is not None or not self.characters:
            what = "it is empty" if wrong is None else f"{wrong!r} is not one character"
            raise InvalidArgument(
                f"The vocabulary does not tell how text becomes tokens: {what}. Give one character for each token, or "
                "make the tokens yourself with the model's own tokenizer and give them with their pieces of text.",
                reason="VOCABULARY_UNFIT",
                field="vocabulary",
                metadata={"piece": wrong or ""},
            )
        if len(set(self.characters)) < len(self.characters):
            twice = next(piece for piece in self.characters if self.characters.count(piece) > 1)
            raise InvalidArgument(
                f"The vocabulary has {twice!r} twice; each character must stand for one token.",
                reason="VOCABULARY_UNFIT",
                field="vocabulary",
                metadata={"piece": twice},
            )

    @classmethod
    def of_model(cls, model: models_pb2.ModelVersion) -> "Vocabulary":
        """The class labels of a model that predicts characters.

        Raises:
            InvalidArgument: VOCABULARY_MISSING: its labels are not characters.
        """
        labels = tuple(model.class_labels)
        if not labels or any(len(label) != 1 for label in labels):
            raise InvalidArgument(
                f"{resource_names.short_model(model.name)} does not tell the characters of its tokens: its class "
                "labels are not single characters. Give a vocabulary: a JSON file with a list of characters, in the "
                "order of the tokens.",
                reason="VOCABULARY_MISSING",
                field="vocabulary",
                metadata={"model": model.name},
            )
        return cls(labels)

    @classmethod
    def read(cls, path: str | Path) -> "Vocabulary":
        """A JSON file: a list of characters in the order of the tokens, or an object from characters to tokens.

        Raises:
            InvalidArgument: VOCABULARY_UNREADABLE, VOCABULARY_UNFIT.
            OSError: The file cannot be read.
        """
        try:
            data = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise _unreadable(path, f"it is no JSON ({error})") from None
        if isinstance(data, dict):
            if sorted(map(str, data.values())) != sorted(map(str, range(len(data)))):
                raise _unreadable(path, "its tokens are not 0, 1, 2, …, each once")
            data = sorted(data, key=lambda piece: int(data[piece]))
        if not isinstance(data, list) or not all(isinstance(piece, str) for piece in data):
            raise _unreadable(path, "it is neither a list of characters nor an object from characters to tokens")
        return cls(tuple(data))

    def encode(self, text: str, *, replace: str = "") -> npt.NDArray[np.int64]:
        """The token of each character.

        Args:
            text: The text.
            replace: The character that stands in for those that the vocabulary lacks; none if empty.

        Raises:
            InvalidArgument: CHARACTER_UNKNOWN, with its line and column.
        """
        tokens = {character: token for token, character in enumerate(self.characters)}
        stand_in = tokens.get(replace, -1)
        found = np.fromiter((tokens.get(character, stand_in) for character in text), np.int64, len(text))
        missing = np.flatnonzero(found < 0)
        if missing.size:
            raise self._unknown(text, int(missing[0]), replace)
        return found

    def _unknown(self, text: str, position: int, replace: str) -> InvalidArgument:
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        stand_in = f", and neither has it {replace!r} to stand in for it" if replace else ""
        return InvalidArgument(
            f"The vocabulary has no token for {text[position]!r} (line {line}, column {column}){stand_in}. Change the "
            "text, or name a character of the vocabulary that stands in for such.",
            reason="CHARACTER_UNKNOWN",
            field="text",
            metadata={"character": text[position], "line": str(line), "column": str(column)},
        )


@dataclass(frozen=True)
class Extract:
    """A piece of text around a position."""

    position: int
    """The position, a token's index from 0."""

    value: float
    """The unit's activation there."""

    start: int
    """Where the piece begins."""

    stop: int
    """Where it ends, exclusively."""

    text: str
    """The piece."""


@dataclass(frozen=True, eq=False)
class TextActivations:
    """The activations of a tap at each position of a text; `numpy.asarray` of it is `values`."""

    pieces: tuple[str, ...]
    """The piece of text at each position: a character, or what a token stands for."""

    values: npt.NDArray[np.float32]
    """The activations, (positions, units)."""

    model: str
    """The model version as people write it, `name/version`."""

    tap: str
    """Resource name of the tap."""

    display_name: str
    """The name of the tap to show people."""

    provenance: provenance_pb2.Provenance
    """What it was computed from."""

    def __post_init__(self) -> None:
        if len(self.pieces) != len(self.values):
            raise InvalidArgument(
                f"There are {len(self.pieces)} pieces of text for {len(self.values)} positions.",
                reason="PIECES_MISMATCH",
                field="pieces",
                metadata={"pieces": str(len(self.pieces)), "positions": str(len(self.values))},
            )

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def unit_count(self) -> int:
        """Number of units."""
        count: int = self.values.shape[1]
        return count

    def unit(self, unit: int) -> npt.NDArray[np.float32]:
        """The activation of a unit at each position.

        Raises:
            InvalidArgument: UNIT_UNKNOWN.
        """
        if not 0 <= unit < self.unit_count:
            raise InvalidArgument(
                f"{self.display_name} has no unit {unit}; its {self.unit_count} units are counted from 0.",
                reason="UNIT_UNKNOWN",
                field="unit",
                metadata={"unit": str(unit), "units": str(self.unit_count)},
            )
        values: npt.NDArray[np.float32] = self.values[:, unit]
        return values

    def extracts(self, unit: int, *, count: int = 5, around: int = 30, least: bool = False) -> list[Extract]:
        """The windows of the text with the largest activation of a unit, by falling value, none over another's peak.

        Args:
            unit: The unit.
            count: Most windows.
            around: Positions shown on either side of the peak, and the least distance between two peaks.
            least: Whether the smallest activations are meant, by rising value.

        Raises:
            InvalidArgument: UNIT_UNKNOWN.
        """
        values = self.unit(unit)
        order = np.argsort(values if least else -values, kind="stable")
        taken = np.zeros(len(values), bool)
        found: list[Extract] = []
        for position in map(int, order):
            if len(found) == count:
                break
            if taken[position] or not np.isfinite(values[position]):
                continue
            start, stop = max(0, position - around), min(len(values), position + around + 1)
            taken[start:stop] = True
            found.append(Extract(position, float(values[position]), start, stop, "".join(self.pieces[start:stop])))
        return found

    def following(self, signal: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """How well each unit follows a signal: Pearson's correlation over the positions, 0 for a unit that is constant.

        Args:
            signal: A number or truth value for each position, such as whether it is quoted.

        Returns:
            (units,) from -1 to 1.

        Raises:
            InvalidArgument: SIGNAL_MISMATCH.
        """
        wanted = np.asarray(signal, np.float64)
        if wanted.shape != (len(self.values),):
            raise InvalidArgument(
                f"The signal has the shape {wanted.shape}; one number for each of {len(self.values)} positions is "
                "wanted.",
                reason="SIGNAL_MISMATCH",
                field="signal",
                metadata={"positions": str(len(self.values))},
            )
        own = self.values.astype(np.float64)
        own, wanted = own - own.mean(axis=0), wanted - wanted.mean()
        lengths = np.sqrt((own**2).sum(axis=0) * (wanted**2).sum())
        products: npt.NDArray[np.float64] = own.T @ wanted
        found: npt.NDArray[np.float64] = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return found

    def page(self, unit: int | None = None, *, mark: str = "") -> str:
        """A self-contained page: the text, coloured by the activation of a unit that can be chosen.

        Args:
            unit: The unit to begin with; if None the one that tells the marked places best, or varies most without any.
            mark: A regular expression whose matches are marked to begin with; the units can be sorted by how well they
                tell them from the rest.

        Raises:
            InvalidArgument: UNIT_UNKNOWN.
        """
        from ortoscope.report.text import render_text  # noqa: PLC0415 - templates, only where a page is made

        return render_text(self, unit, mark=mark)

    def save(self, path: str | Path, unit: int | None = None, *, mark: str = "") -> None:
        """Writes the page; see `page`.

        Raises:
            OSError: The file cannot be written.
        """
        write_file(Path(path), self.page(unit, mark=mark).encode())

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<TextActivations {self.display_name}: {len(self.values)} positions, {self.unit_count} units>"


def activations_of_text(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    tap: models_pb2.Tap,
    text: str,
    *,
    vocabulary: Vocabulary | Sequence[str] | None = None,
    replace: str = "",
    length: int = LENGTH,
    context: int = CONTEXT,
) -> TextActivations:
    """Computes the activations of a tap at each character of a text.

    Args:
        rpcs: The calls.
        model: The model version; its only input takes tokens, one for each character.
        tap: The tap.
        text: The text.
        vocabulary: The character of each token; the model's class labels if None.
        replace: The character that stands in for those that the vocabulary lacks; none if empty.
        length: As for `activations_of_tokens`.
        context: As for `activations_of_tokens`.

    Raises:
        OrtoscopeError: As `Vocabulary` and `activations_of_tokens`.
    """
    if vocabulary is None:
        known = Vocabulary.of_model(model)
    else:
        known = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(tuple(vocabulary))
    tokens = known.encode(text, replace=replace)
    return activations_of_tokens(rpcs, model, tap, tokens, tuple(text), length=length, context=context)


def activations_of_tokens(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    tap: models_pb2.Tap,
    tokens: npt.ArrayLike,
    pieces: Sequence[str],
    *,
    length: int = LENGTH,
    context: int = CONTEXT,
) -> TextActivations:
    """Computes the activations of a tap at each token.

    What is longer than the model takes is computed in stretches of equal length, each with some tokens before it that
    are only context. A model that states a length gets that; shorter text does not fit it.

    Args:
        rpcs: The calls.
        model: The model version; its only input takes tokens.
        tap: The tap.
        tokens: (positions,) integers.
        pieces: The piece of text that each token stands for.
        length: Tokens that a model of free length is given at once.
        context: How many of them are context, except at the beginning.

    Raises:
        OrtoscopeError: As Activations.Activate; FailedPrecondition: INPUT_NOT_TOKENS, TAP_NOT_PER_POSITION;
            InvalidArgument: TEXT_MISSING, TEXT_TOO_SHORT, LENGTH_UNFIT, PIECES_MISMATCH.
    """
    given = np.asarray(tokens, np.int64)
    if given.ndim != 1 or not given.size:
        raise InvalidArgument("There is no text to look at.", reason="TEXT_MISSING", field="text")
    stated, dtype = _token_input(model)
    if stated > given.size:
        raise InvalidArgument(
            f"The model takes {stated} tokens at a time, and the text has {given.size}; give a longer one.",
            reason="TEXT_TOO_SHORT",
            field="text",
            metadata={"tokens": str(given.size), "length": str(stated)},
        )
    if stated:
        length, context = stated, min(context, stated // 2)
    starts, extent = _stretches(given.size, length, context)
    units = tap.unit_count or _UNITS_IF_UNKNOWN
    room = (rpcs.limits.max_message_bytes or _UNLIMITED_BYTES) * _ANSWER_SHARE
    together = max(1, int(room // (extent * units * 4)))
    if model.fixed_batch:
        together = model.fixed_batch
    parts: list[Array] = []
    provenance = provenance_pb2.Provenance()
    for first in range(0, len(starts), together):
        chosen = starts[first : first + together]
        # A model that is bound to a batch gets the last stretch again and again to fill it.
        filled = chosen + [chosen[-1]] * (model.fixed_batch - len(chosen))
        batch = np.stack([given[start : start + extent] for start in filled]).astype(dtype)
        found = activate(rpcs, model, batch, [Selection(tap.tensor)])
        parts.extend(_by_position(found[tap.tensor].values, tap, extent)[: len(chosen)])
        provenance = found.provenance
    return TextActivations(
        pieces=tuple(pieces),
        values=_joined(parts, starts, given.size),
        model=resource_names.short_model(model.name),
        tap=tap.name,
        display_name=tap.display_name,
        provenance=provenance,
    )


def _stretches(count: int, length: int, context: int) -> tuple[list[int], int]:
    """Where stretches begin, and how long all of them are; the last one ends with the text."""
    if length < 1 or not 0 <= context < length:
        raise InvalidArgument(
            f"Of {length} tokens at a time {context} cannot be context; give a length above the context, which is not "
            "negative.",
            reason="LENGTH_UNFIT",
            field="length",
            metadata={"length": str(length), "context": str(context)},
        )
    if count <= length:
        return [0], count
    return [*range(0, count - length, length - context), count - length], length


def _joined(parts: Sequence[Array], starts: Sequence[int], count: int) -> npt.NDArray[np.float32]:
    """Each position from the stretch in which the most comes before it: the first that reaches it."""
    values = np.empty((count, parts[0].shape[1]), np.float32)
    done = 0
    for part, start in zip(parts, starts, strict=True):
        values[done : start + len(part)] = part[done - start :]
        done = start + len(part)
    return values


def _token_input(model: models_pb2.ModelVersion) -> tuple[int, np.dtype[Any]]:
    """The length that the model states, 0 if it is free, and the type of its tokens."""
    if len(model.inputs) == 1:
        (entry,) = model.inputs
        dtype = dtype_of(entry.data_type)
        if len(entry.shape) == 2 and dtype is not None and dtype.kind in "iu":
            return max(0, entry.shape[1]), dtype
    inputs = ", ".join(f"{entry.name} {list(entry.shape)}" for entry in model.inputs)
    raise FailedPrecondition(
        f"{resource_names.short_model(model.name)} does not take tokens alone: its inputs are {inputs}. A text needs a "
        "model with one input of integers, (batch, length).",
        reason="INPUT_NOT_TOKENS",
        field="model",
        metadata={"inputs": inputs},
    )


def _by_position(values: Array, tap: models_pb2.Tap, extent: int) -> Array:
    """(items, positions, units)."""
    if len(tap.site_axes) != 1 or values.shape[tap.site_axes[0]] != extent:
        shape = list(values.shape[1:])
        raise FailedPrecondition(
            f"The tap {tap.display_name} has no activation for each position: its shape is {shape} for {extent} "
            "tokens. Choose a tap with a site for each token, such as the state of a recurrent layer after each step.",
            reason="TAP_NOT_PER_POSITION",
            field="tap",
            metadata={"tap": tap.display_name, "shape": str(shape)},
        )
    return np.moveaxis(values, (tap.site_axes[0], tap.unit_axis), (1, 2)).astype(np.float32)


def _unreadable(path: str | Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"No vocabulary can be read from {str(path)!r}: {why}.",
        reason="VOCABULARY_UNREADABLE",
        field="vocabulary",
        metadata={"path": str(path)},
    )
