"""The command `ortoscope`."""


def main() -> None:
    """Runs the command line."""
    from ortoscope.cli.app import app  # noqa: PLC0415 - `import ortoscope.cli` stays cheap

    app(prog_name="ortoscope")
