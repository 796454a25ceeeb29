"""What is known of a session, in a form that travels between processes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ortoscope_service.runtime.sessions import RunnableSession, SessionConfig, TensorInfo
from ortoscope_service.runtime.verdicts import Circumstances, ParityReport


@dataclass(frozen=True)
class Description:
    """Everything that a session tells without being run."""

    config: SessionConfig
    """Its configuration, threads resolved, with the execution provider that it runs on."""

    inputs: tuple[TensorInfo, ...]
    """What it must be fed."""

    outputs: tuple[TensorInfo, ...]
    """What it returns."""

    providers: tuple[str, ...]
    """The execution providers that it registered."""

    parity: ParityReport | None
    """How the provider that was asked for compared with the CPU provider."""

    @staticmethod
    def of(session: RunnableSession) -> "Description":
        """The description of a session."""
        return Description(session.config, session.inputs, session.outputs, session.providers, session.parity)

    def to_json(self) -> dict[str, Any]:
        """The description as JSON."""
        return {
            "config": config_to_json(self.config),
            "inputs": [dataclasses.asdict(info) for info in self.inputs],
            "outputs": [dataclasses.asdict(info) for info in self.outputs],
            "providers": list(self.providers),
            "parity": None if self.parity is None else dataclasses.asdict(self.parity),
        }

    @staticmethod
    def from_json(parts: Mapping[str, Any]) -> "Description":
        """The description that `to_json` gave."""
        return Description(
            config_from_json(parts["config"]),
            tuple(_tensor_info(info) for info in parts["inputs"]),
            tuple(_tensor_info(info) for info in parts["outputs"]),
            tuple(parts["providers"]),
            None if parts["parity"] is None else _parity(parts["parity"]),
        )


def config_to_json(config: SessionConfig) -> dict[str, Any]:
    """A configuration as JSON."""
    return {
        **dataclasses.asdict(config),
        "providers": list(config.providers),
        "verdicts": None if config.verdicts is None else str(config.verdicts),
    }


def config_from_json(parts: Mapping[str, Any]) -> SessionConfig:
    """The configuration that `config_to_json` was given."""
    verdicts = parts["verdicts"]
    return SessionConfig(
        **{
            **parts,
            "providers": tuple(parts["providers"]),
            "verdicts": None if verdicts is None else Path(verdicts),
        }
    )


def _tensor_info(parts: Mapping[str, Any]) -> TensorInfo:
    return TensorInfo(parts["name"], parts["data_type"], tuple(parts["shape"]))


def _parity(parts: Mapping[str, Any]) -> ParityReport:
    return ParityReport(**{**parts, "circumstances": Circumstances(**parts["circumstances"])})
