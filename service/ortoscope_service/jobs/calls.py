"""A call of a function in another process: what it is as text, how it is made there, and how it fails here.

Only names and JSON travel: a worker runs models from outside, and its server must not have to trust what it answers.
"""

import importlib
import json
import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

_log = logging.getLogger(__name__)


class WorkerDiedError(Exception):
    """The process that had the task ended before it was done.

    Attributes:
        how: What happened to it, so that "the worker …" becomes a sentence.
        exit_code: Its exit code, the number of the signal that ended it as a negative number, or None if not known.
        out_of_memory: Whether the system killed it because it exceeded the memory that it may use.
    """

    def __init__(self, how: str, exit_code: int | None = None, *, out_of_memory: bool = False) -> None:
        super().__init__(f"the worker {how}")
        self.how = how
        self.exit_code = exit_code
        self.out_of_memory = out_of_memory


class WorkerTaskError(Exception):
    """The function raised an exception. Only the name of its type is known here; the worker's log has the rest."""


@dataclass(frozen=True)
class Call:
    """A call that somebody waits for."""

    function: str
    """MODULE:NAME of the function."""

    arguments: str
    """JSON: its positional arguments as a list, and its named ones as an object."""

    future: Future[Any] = field(default_factory=Future)
    """What the caller holds."""

    @classmethod
    def of(cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Call":
        """The call of a function with arguments that are JSON values.

        Raises:
            TypeError: The function is none at the top level of a module that another process can import, or an
                argument is no JSON value.
        """
        try:
            arguments = json.dumps([args, kwargs], allow_nan=False)
        except ValueError as error:
            raise TypeError(f"an argument is no JSON value: {error}") from None
        return cls(_name_of(function), arguments)

    def settle(self, answer: Mapping[str, Any]) -> None:
        """Tells the future what came of the call.

        Args:
            answer: An object as `call_function` returns it.
        """
        if "raised" in answer:
            self.future.set_exception(WorkerTaskError(str(answer["raised"])))
        else:
            self.future.set_result(answer["result"])


def call_function(function: str, arguments: str) -> str:
    """Calls a function.

    Args:
        function: MODULE:NAME of it.
        arguments: JSON: its positional arguments as a list, and its named ones as an object.

    Returns:
        JSON: an object with the key `result`, or with `raised`, the name of an exception's type. No more leaves the
        worker of an exception; its log has the rest.
    """
    try:
        module, _, name = function.partition(":")
        target = getattr(importlib.import_module(module), name)
        args, kwargs = json.loads(arguments)
        return json.dumps({"result": target(*args, **kwargs)})
    except Exception as error:  # noqa: BLE001 - whatever a task raises is how it ended
        _log.exception("%s failed", function)
        return json.dumps({"raised": type(error).__name__})


def _name_of(function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", None) or "", getattr(function, "__qualname__", "")
    if module in {"", "__main__"} or getattr(sys.modules.get(module), name, None) is not function:
        raise TypeError(f"{function!r} is no function at the top level of a module, which a worker could import")
    return f"{module}:{name}"
