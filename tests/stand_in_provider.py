"""A stand-in for an execution provider that may be wrong: the CPU provider on a graph that may be another one."""

import os
from dataclasses import replace
from pathlib import Path

from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.parity import CPU, open_session
from ortoscope_service.runtime.sessions import Session, SessionConfig

OTHER = "StandInExecutionProvider"

LOG_VARIABLE = "STAND_IN_LOG"
"""Environment variable that names the file in which `open_with_stand_in` notes the sessions that it makes."""

OPENER = "stand_in_provider:open_with_stand_in"
"""What a session host is told to make sessions with the stand-in."""


class StandIn:
    """Makes sessions; those on another provider than the CPU's compute `graph`, or are refused with `error`.

    Attributes:
        made: The provider of each session that was made.
    """

    def __init__(self, graph: bytes | None = None, error: OrtoscopeError | None = None) -> None:
        self.graph = graph
        self.error = error
        self.made: list[str] = []

    def __call__(self, model: bytes, config: SessionConfig) -> Session:
        self.made.append(config.providers[0])
        if config.providers[0] == CPU:
            return Session(model, config)
        if self.error is not None:
            raise self.error
        session = Session(self.graph or model, replace(config, providers=(CPU,)))
        session.config = replace(session.config, providers=config.providers)
        return session


def open_with_stand_in(graph: bytes, config: SessionConfig, cancellation: Cancellation) -> Session:
    """A session past the parity gate, in another process; each provider that one was made on is noted on a line."""
    stand_in = StandIn()
    session = open_session(graph, config, make=stand_in)
    with Path(os.environ[LOG_VARIABLE]).open("a") as log:
        log.writelines(f"{provider}\n" for provider in stand_in.made)
    return session
