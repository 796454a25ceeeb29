"""The command `presets`: recipes and their settings."""

from typing import Annotated

import typer

from ortoscope.cli.session import JsonOption, TargetOption, session
from ortoscope.errors import InvalidArgument
from ortoscope.presets import preset_table
from ortoscope.rpcs import all_pages
from ortoscope.v1 import visualization_pb2


def presets(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Show this preset with every setting.")] = "",
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the presets for visualizations, or every setting of one.

    ortoscope presets
    ortoscope presets maco

    A setting is changed with `ortoscope visualize … --set NAME=VALUE`; values are
    JSON, and a word stands for itself.
    """
    with session(context, target, as_json) as run:
        response = all_pages(run.scope.rpcs.list_presets, visualization_pb2.ListPresetsRequest())
        table = preset_table(response)
        if name:
            chosen = [preset for preset in table if preset.name == name]
            if not chosen:
                known = ", ".join(preset.name for preset in table)
                raise InvalidArgument(
                    f"There is no preset {name!r}; there are {known}.",
                    reason="UNKNOWN_PRESET",
                    metadata={"preset": name},
                )
            kept = [entry for entry in response.presets if entry.name == name]
            response = visualization_pb2.ListPresetsResponse(presets=kept)
            run.output.text(chosen[0].describe())
        elif not run.output.as_json:
            run.output.table(table)
        if run.output.as_json:
            run.output.json(response)
