"""The main job on a real network, end to end: `python demo/run.py OUTPUT [OPTIONS OF ortoscope-server serve]`.

Prepares EfficientNet-Lite0 (ImageNet weights) from its package, renders labelled scenes, starts a server, and then asks
it, through the client alone: what do the units respond to on photographs, which images drive them, and which concepts
do they detect? Writes OUTPUT/index.html with the reports beside it, and prints the five most interesting
findings. What was prepared is kept in .cache/demo, so that a second run starts at once; the log of the server is there.
"""

import argparse
import contextlib
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import ortoscope
from findings import Finding, Photograph, find, look_at
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache" / "demo"
ONBOARDING = WORK / "onboarding.txt"
LOG = WORK / "server.log"
MODEL = "efficientnet-lite0"
DATASET = "rendered-scenes"
TAPS = ("blocks.10", "head.conv")
PHOTOGRAPHS = (
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "astronaut.png",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)


@dataclass(frozen=True)
class TapReport:
    """What was found at one tap."""

    tap: ortoscope.Tap
    """The tap."""

    dissection: ortoscope.Dissection
    """Its dissection."""

    folder: str
    """The folder of its reports, relative to the output."""


def server_command(*arguments: str) -> list[str]:
    """The command line of `ortoscope-server` in this environment."""
    return [sys.executable, "-m", "ortoscope_service", *arguments]


def prepare() -> None:
    """Puts the model and the scenes into the working folder, unless they are there."""
    WORK.mkdir(parents=True, exist_ok=True)
    if not ONBOARDING.exists():
        onboarding = subprocess.run(
            server_command("zoo", MODEL, "--models", str(WORK / "models")),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        ONBOARDING.write_text(onboarding.stdout, encoding="utf-8")
    scenes = WORK / "datasets" / DATASET
    if not (scenes / "index.csv").exists():
        subprocess.run(server_command("render-scenes", str(scenes)), check=True)


@contextlib.contextmanager
def server(options: Sequence[str]) -> Iterator[str]:
    """A server on a free port; yields its target and stops it cleanly.

    Args:
        options: More of its command line, such as the cluster that does the work.
    """
    folders = [f"--{name}={WORK / name}" for name in ("models", "datasets", "store")]
    with LOG.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            server_command("serve", *folders, "--listen", "127.0.0.1:0", *options), stdin=subprocess.DEVNULL, stderr=log
        )
    try:
        yield listening(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def listening(server: subprocess.Popen[bytes]) -> str:
    """The target of a server that was started, as soon as it listens.

    Raises:
        SystemExit: It ended before.
    """
    while True:
        ended = server.poll() is not None
        said = LOG.read_text(encoding="utf-8")
        if found := re.search(r"^listening on (\S+)\n", said, re.MULTILINE):
            return found[1]
        if ended:
            raise SystemExit(f"The server did not start:\n{said}")
        time.sleep(0.05)


def photographs() -> list[Path]:
    """The sample photographs that scikit-image brings."""
    specification = importlib.util.find_spec("skimage")
    if specification is None or specification.origin is None:
        raise SystemExit("The photographs are scikit-image's; install ortoscope[demo].")
    folder = Path(specification.origin).parent / "data"
    return [folder / name for name in PHOTOGRAPHS if (folder / name).exists()]


def examine(scope: ortoscope.Ortoscope, output: Path) -> tuple[list[TapReport], list[Photograph]]:
    """Dissects the taps, collects examples, and looks at the photographs; writes the reports."""
    model = scope.model(MODEL)
    reports = []
    for name in TAPS:
        tap = model.tap(name)
        folder = tap.display_name.replace("/", ".")
        dissection = tap.dissect(DATASET).result(progress=True)
        dissection.save(output / folder / "dissection", progress=True)
        tap.examples(DATASET, count=5).result(progress=True).save(output / folder / "examples", progress=True)
        reports.append(TapReport(tap, dissection, folder))
    last = reports[-1]
    activations = model.activate(photographs(), last.tap)[last.tap.display_name]
    maps = np.moveaxis(activations.values, activations.unit_axis, 1)
    return reports, look_at(photographs(), maps, last.dissection)


def write_page(output: Path, reports: list[TapReport], shown: list[Photograph], findings: list[Finding]) -> None:
    """Writes the page that leads to the reports."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html").render(
        model=MODEL, dataset=DATASET, reports=reports, photographs=shown, findings=findings
    )
    (output / "index.html").write_text(page, encoding="utf-8")


def run(output: Path, options: Sequence[str]) -> None:
    """Does it all.

    Args:
        output: Folder to write to.
        options: More of the command line of `ortoscope-server serve`.
    """
    console = Console()
    began = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    prepare()
    with server(options) as target, ortoscope.connect(target) as scope:
        reports, shown = examine(scope, output)
        findings = find([(report.tap.display_name, report.dissection) for report in reports], shown)
    write_page(output, reports, shown, findings)
    shutil.copy(ONBOARDING, output / "model.txt")
    console.print("\n[bold]The five most interesting findings[/bold]")
    for number, finding in enumerate(findings, start=1):
        console.print(f"{number}. {finding.text}", highlight=False)
    console.print(f"\nOpen [bold]{output / 'index.html'}[/bold]. ({time.monotonic() - began:.0f} s)", highlight=False)


def main() -> None:
    """Reads the command line, and runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("serve", nargs=argparse.REMAINDER, help="options of `ortoscope-server serve`")
    arguments = parser.parse_args()
    # The server that was started must end with this process.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        run(arguments.output, arguments.serve)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ortoscope.OrtoscopeError as error:
        raise SystemExit(f"{error}\nThe server's log is {LOG.relative_to(ROOT)}.") from None


if __name__ == "__main__":
    main()
