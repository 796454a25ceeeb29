"""Presets: recipes for visualizations under a name."""

import json
from dataclasses import dataclass, field
from typing import Any

from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import visualization_pb2


@dataclass(frozen=True)
class Preset:
    """A recipe under a name."""

    name: str
    """The name."""

    summary: str
    """What it is for."""

    source: str
    """Where its figures come from, and what differs from that."""

    needs_start: bool
    """Whether it starts from a picture that is given."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Every setting with its value."""

    @classmethod
    def from_proto(cls, proto: visualization_pb2.Preset) -> "Preset":
        """Reads the server's message."""
        settings = {name: json.loads(text) for name, text in sorted(proto.settings.items())}
        return cls(proto.name, proto.summary, proto.source, proto.needs_start, settings)

    @property
    def steps(self) -> int:
        """Steps of a climb; 0 if it does not tell."""
        steps = self.settings.get("recipe.steps", 0)
        return steps if isinstance(steps, int) else 0

    def describe(self) -> str:
        """The preset with every setting, in lines."""
        lines = [f"{self.name}: {self.summary}", f"Source: {self.source}"]
        if self.needs_start:
            lines.append("It needs a picture to start from.")
        width = max(map(len, self.settings), default=0)
        lines += [f"  {name:<{width}}  {json.dumps(value)}" for name, value in self.settings.items()]
        return "\n".join(lines)


def list_presets(rpcs: Rpcs) -> Table[Preset]:
    """The presets of a server.

    Raises:
        OrtoscopeError: As Visualization.ListPresets.
    """
    response = all_pages(rpcs.list_presets, visualization_pb2.ListPresetsRequest())
    return preset_table(response)


def preset_table(response: visualization_pb2.ListPresetsResponse) -> Table[Preset]:
    """The presets of a ListPresetsResponse."""
    return Table(
        (Preset.from_proto(entry) for entry in response.presets),
        (
            Column("preset", lambda preset: preset.name),
            Column("size", lambda preset: preset.settings.get("size"), numeric=True),
            Column("steps", lambda preset: preset.steps or None, numeric=True),
            Column("start", lambda preset: "a picture" if preset.needs_start else "at random"),
            Column("what for", lambda preset: preset.summary),
        ),
        title=f"{len(response.presets)} presets",
        names=lambda preset: (preset.name,),
    )
