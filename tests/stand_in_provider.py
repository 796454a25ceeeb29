"""A stand-in for an execution provider that may be wrong: the CPU provider on a graph that may be another one."""

from dataclasses import replace

from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.runtime.parity import CPU
from ortoscope_service.runtime.sessions import Session, SessionConfig

OTHER = "StandInExecutionProvider"


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
