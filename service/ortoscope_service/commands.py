"""The command line `ortoscope-server`.

Every command does its imports when it is called, so that `--help` is quick and a command needs only what it uses.
"""

import contextlib
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperCommand

from ortoscope_service.errors import OrtoscopeError, invalid

if TYPE_CHECKING:
    from ortoscope_service.models.manifest import Channels
    from ortoscope_service.models.onboarding import GradientFile, OnboardingReport

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Ortoscope's server: looks inside any ONNX network, and lets others look, over gRPC.

A model first becomes a *package* (`prepare`, or `zoo` for one that is built on the spot), a dataset a folder
(`validate` checks one, `render-scenes` draws one); then `serve` serves both:

    ortoscope-server zoo efficientnet-lite0 --models models
    ortoscope-server prepare MODEL.onnx --labels classes.txt --images photos --models models
    ortoscope-server render-scenes datasets/scenes
    ortoscope-server serve --models models --datasets datasets --store store

The client's command line is `ortoscope`.""",
)

_ERROR_CODE = 2
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class SizePolicyOption(StrEnum):
    """How a picture of another size is made to fit."""

    SQUASH = "squash"
    CROP = "crop"


class LayoutOption(StrEnum):
    """Axes of the image input."""

    NCHW = "nchw"
    NHWC = "nhwc"


class ColorOrderOption(StrEnum):
    """Order of the colours."""

    RGB = "rgb"
    BGR = "bgr"
    GRAY = "gray"


ModelsOption = Annotated[
    Path, typer.Option("--models", metavar="DIR", help="Folder of model packages. Made if it is not there.")
]
RelaxOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A deliberate departure from the true gradient: redirected_relu, guided, deconvolution, "
        "averaged_max_pool or l2_max_pool. Repeatable. Default: none, the true gradient.",
    ),
]
ClusterOption = Annotated[
    str, typer.Option("--cluster", metavar="tls://HOST:PORT", help="Where the scheduler listens, or is reached.")
]
ClusterCertificateOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="For tls://: the certificate shown to the others (PEM).")
]
ClusterKeyOption = Annotated[Path | None, typer.Option(metavar="FILE", help="For tls://: its key (PEM).")]
ClusterAuthorityOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="For tls://: who signs the certificates of the cluster (PEM).")
]
PlainTcpOption = Annotated[
    bool,
    typer.Option(
        "--cluster-plain-tcp",
        help="Allow tcp:// where other machines reach it: whoever reaches a scheduler runs code on its workers.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object on stdout, and nothing else there.")
]


class _LenientOptions(TyperCommand):
    """Takes `--mean 123.675 116.28 103.53` for `--mean 123.675,116.28,103.53`, also --std; and --backward alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        joined: list[str] = []
        for arg, following in zip(args, [*args[1:], "--"], strict=True):
            if len(joined) > 1 and joined[-2] in {"--mean", "--std"} and _NUMBER.fullmatch(arg):
                joined[-1] += f",{arg}"
            elif arg == "--backward" and following.startswith("-"):
                joined.append("--backward=")
            else:
                joined.append(arg)
        return super().parse_args(ctx, joined)


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command whose errors are shown as one readable line, with exit code 2."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            try:
                function(*arguments, **options)
            except OrtoscopeError as error:
                sys.stderr.write(f"error: {error.message} [{error.reason}]\n")
                raise typer.Exit(_ERROR_CODE) from error
            except KeyboardInterrupt:
                sys.stderr.write("interrupted\n")
                raise typer.Exit(130) from None

        app.command(name, cls=_LenientOptions)(run)
        return function

    return register


@_command("serve")
def serve(
    models: Annotated[Path, typer.Option(metavar="DIR", help="Folder of model packages, as `prepare` fills it.")],
    store: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for operations and results, on a local disk. Made if missing.")
    ],
    datasets: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder whose children are the datasets, each named by its folder."),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; port 0 takes any free one. An address that other machines reach needs "
            "--tls-certificate and --tls-key, or --insecure.",
        ),
    ] = "127.0.0.1:50051",
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The server's certificate chain (PEM); needs --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that certificate (PEM).")] = None,
    tls_client_authority: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Refuse clients without a certificate signed by these authorities (PEM)."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen in plain text where other machines can reach it.")
    ] = False,
    provider: Annotated[
        str,
        typer.Option(
            metavar="PROVIDER",
            envvar="ORTOSCOPE_PROVIDER",
            help="What computes: ONNX Runtime's name of an execution provider. CUDAExecutionProvider needs "
            "ortoscope[server-gpu], OpenVINOExecutionProvider ortoscope[openvino]. A graph on which it does not give "
            "the numbers of CPUExecutionProvider is served by that.",
        ),
    ] = "CPUExecutionProvider",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads within an operator; 0: all that this process may use.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per run of a model.")] = 16,
    call_memory: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Most memory for the models that calls run. Default: a share."),
    ] = "",
    session_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory that models used before may keep. Default: half of it.")
    ] = "",
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes that do the work of operations; 0: one per available thread, if memory suffices.",
        ),
    ] = 0,
    operations: Annotated[
        int, typer.Option(min=1, help="Operations that run at once; they take turns, shard by shard.")
    ] = 4,
    worker_threads: Annotated[
        int, typer.Option(min=1, help="Threads within an operator in each worker; decides the last bits of results.")
    ] = 1,
    worker_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Most memory of a worker, such as 4G. Default: an equal share.")
    ] = "",
    stall_seconds: Annotated[
        float, typer.Option(min=1, help="A shard that gives no sign of life for so long is given up.")
    ] = 300.0,
    visualizations: Annotated[
        int,
        typer.Option(
            min=1, max=16, help="Visualizations that climb at once. One has all threads; more share them, step by step."
        ),
    ] = 1,
    waiting_visualizations: Annotated[
        int, typer.Option(min=1, help="Visualizations that wait for their turn; more are refused.")
    ] = 20,
    visualization_items: Annotated[int, typer.Option(min=1, help="Most pictures of one visualization.")] = 64,
    visualization_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            max=2**24,
            metavar="PIXELS",
            help="Most pixels of all pictures of one visualization; a picture of 512 x 512 has 262144.",
        ),
    ] = 2048**2,
    visualization_steps: Annotated[
        int, typer.Option(min=1, help="Most steps of one visualization, attempts, octaves and other seeds included.")
    ] = 20_000,
    retention_days: Annotated[
        float, typer.Option(min=0, help="How long the record of an operation is kept after it ended; results stay.")
    ] = 30.0,
    cluster: Annotated[
        str,
        typer.Option(
            metavar="tls://HOST:PORT",
            help="Have the work of operations done by the workers of this Dask scheduler (needs ortoscope[cluster]). "
            "tcp:// on a loopback address only, or with --cluster-plain-tcp.",
        ),
    ] = "",
    cluster_certificate: ClusterCertificateOption = None,
    cluster_key: ClusterKeyOption = None,
    cluster_authority: ClusterAuthorityOption = None,
    cluster_plain_tcp: PlainTcpOption = False,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long calls under way may go on after SIGTERM.")
    ] = 10.0,
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics over HTTP there; nowhere if empty.")
    ] = "",
) -> None:
    """Serve models and datasets over gRPC until SIGTERM or Ctrl-C."""
    from ortoscope_service.api.server import serve as serve_until_stopped  # noqa: PLC0415
    from ortoscope_service.config import (  # noqa: PLC0415
        ClusterConfig,
        JobsConfig,
        Limits,
        ServerConfig,
        TlsFiles,
        VisualizationConfig,
    )

    tls = None
    if tls_certificate is not None and tls_key is not None:
        tls = TlsFiles(tls_certificate, tls_key, tls_client_authority)
    elif tls_certificate is not None or tls_key is not None or tls_client_authority is not None:
        raise invalid("INCOMPLETE_TLS", "TLS needs both --tls-certificate and --tls-key; give the one that is missing.")
    serve_until_stopped(
        ServerConfig(
            models=models,
            store=store,
            datasets=datasets,
            listen=listen,
            tls=tls,
            insecure=insecure,
            execution_provider=provider,
            threads=threads,
            batch_size=batch_size,
            call_memory_bytes=_bytes(call_memory),
            session_memory_bytes=_bytes(session_memory),
            jobs=JobsConfig(
                workers=workers,
                operations=operations,
                threads=worker_threads,
                memory_bytes=_bytes(worker_memory),
                stall_seconds=stall_seconds,
                cluster=ClusterConfig(
                    cluster, cluster_certificate, cluster_key, cluster_authority, allow_plain_tcp=cluster_plain_tcp
                )
                if cluster
                else None,
            ),
            grace_seconds=grace,
            metrics_listen=metrics,
            visualizations=VisualizationConfig(at_once=visualizations),
            limits=Limits(
                operation_retention_seconds=round(retention_days * 86400),
                max_visualization_items=visualization_items,
                max_visualization_pixels=visualization_pixels,
                max_visualization_steps=visualization_steps,
                max_waiting_visualizations=waiting_visualizations,
            ),
        )
    )


@_command("cluster-scheduler")
def cluster_scheduler(
    cluster: ClusterOption,
    cluster_certificate: ClusterCertificateOption = None,
    cluster_key: ClusterKeyOption = None,
    cluster_authority: ClusterAuthorityOption = None,
    cluster_plain_tcp: PlainTcpOption = False,
) -> None:
    """Run the scheduler of a cluster, a Dask scheduler set up for this purpose, until it is stopped.

    It keeps nothing: if it is started again, servers and workers find it, and lost work is done anew. `docs/jobs.md`
    tells how to make the certificates.
    """
    from ortoscope_service.config import ClusterConfig  # noqa: PLC0415
    from ortoscope_service.jobs.cluster_members import run_cluster_scheduler  # noqa: PLC0415

    run_cluster_scheduler(
        ClusterConfig(cluster, cluster_certificate, cluster_key, cluster_authority, allow_plain_tcp=cluster_plain_tcp)
    )


@_command("cluster-worker")
def cluster_worker(
    cluster: ClusterOption,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
    cluster_certificate: ClusterCertificateOption = None,
    cluster_key: ClusterKeyOption = None,
    cluster_authority: ClusterAuthorityOption = None,
    cluster_plain_tcp: PlainTcpOption = False,
) -> None:
    """Run workers of a cluster until they are stopped; one that ends is started again.

    They do the work of every server that uses the scheduler, and must see its store, models and datasets at the same
    paths, with the same versions of the software.
    """
    from ortoscope_service.config import ClusterConfig  # noqa: PLC0415
    from ortoscope_service.jobs.cluster_members import run_cluster_worker  # noqa: PLC0415

    config = ClusterConfig(
        cluster, cluster_certificate, cluster_key, cluster_authority, allow_plain_tcp=cluster_plain_tcp
    )
    raise typer.Exit(run_cluster_worker(config, workers=workers))


@_command("prepare")
def prepare(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file, as any exporter wrote it.")],
    models: ModelsOption,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to serve it under. Default: made of the file name.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of the classes, one line each, in their order."),
    ] = None,
    mean: Annotated[
        list[str] | None,
        typer.Option(
            metavar="M",
            help="Mean, one number or three (`123.675,116.28,103.53`, or --mean three times), on RGB pixels 0..255. "
            "Without --mean and --std the common conventions are tried on photos.",
        ),
    ] = None,
    std: Annotated[
        list[str] | None, typer.Option(metavar="S", help="Standard deviation, likewise: (pixel - mean) / std.")
    ] = None,
    color_order: Annotated[
        ColorOrderOption | None,
        typer.Option(help="Order of the colours that the model takes. Default: rgb with --mean or --std, else tried."),
    ] = None,
    size_policy: Annotated[
        SizePolicyOption,
        typer.Option(
            help="How a picture of another size is made to fit: squash both sides, or resize the short side and crop "
            "the centre."
        ),
    ] = SizePolicyOption.SQUASH,
    resize_short_side: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="For crop: the short side before. Default: 256/224 of the size."),
    ] = None,
    layout: Annotated[
        LayoutOption | None, typer.Option(help="Axes of the image input. Default: told from where the channels are.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="S or HxW", help="Input size, where the model leaves it free. Default: 224."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Pictures of the kind that the model was trained on, to verify the preprocessing on. Default: the few "
            "photos of scikit-image, if that is installed (ortoscope[demo]).",
        ),
    ] = None,
    backward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TAP]",
            help="Keep the backward graph of a tap beside the model, compared with finite differences; of all outputs "
            "if no tap is named (then write it last). Repeatable.",
        ),
    ] = None,
    backward_graph: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAP=FILE.onnx",
            help="Keep a backward graph of your own, such as a training framework's export, if it passes the same "
            "comparison. Repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model package from any bare ONNX file, verify every guess, and report.

    Says whether the **preprocessing** is *verified*, *ambiguous* or *not verified*, with the figures: a wrong input
    range gives nonsense without any error. A batch size that is fixed in the file is made free, and proven by running
    batches of 1 and 3. The report lists every *tap*: the tensors inside the network that can be asked for.

    A **backward graph** takes the model's inputs and `cotangent`, shaped like the tap; it gives `activation`, the tap's
    value, and `gradient.<input>` for every float input, with a free batch and standard operators alone. One that does
    not agree with finite differences of the model is refused, with the figures.
    """
    from ortoscope_service.models.onboarding import prepare as onboard  # noqa: PLC0415
    from ortoscope_service.models.repository import ModelRepository  # noqa: PLC0415

    with _telling() as tell:
        report = onboard(
            model,
            ModelRepository(models),
            name=name,
            labels=labels,
            mean=_channels(mean, "mean"),
            std=_channels(std, "std"),
            color_order=cast("Literal['rgb', 'bgr', 'gray'] | None", color_order and color_order.value),
            size_policy=size_policy.value,
            resize_short_side=resize_short_side,
            layout=cast("Literal['nchw', 'nhwc'] | None", layout and layout.value),
            size=_size(size),
            images=images,
            backward=backward or (),
            backward_graphs=[_tap_and_file(given) for given in backward_graph or ()],
            progress=tell,
        )
    _print_report(report, as_json=as_json)


@_command("expose")
def expose(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")],
    tap: Annotated[
        list[str],
        typer.Option("--tap", metavar="T", help="A tap by any of its names, or any tensor. Repeatable."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="Where to write.")],
    as_json: JsonOption = False,
) -> None:
    """Write an ONNX file with taps as further outputs, for any runtime to read."""
    from ortoscope_service.models.onboarding import expose_file  # noqa: PLC0415

    exposed = expose_file(model, tap, output)
    if as_json:
        _print_json({"taps": dict(zip(tap, exposed.tensors, strict=True)), "outputs": list(exposed.outputs)})
    else:
        sys.stdout.write(f"{output}: outputs {', '.join(exposed.outputs)}\n")


@_command("backward")
def backward(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")],
    tap: Annotated[
        str, typer.Option(metavar="T", help="What is differentiated: a tap by any of its names, or any tensor.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="Where to write.")],
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENSOR",
            help="Where the gradient is wanted: an input, a tap, or any tensor before T. Repeatable. Default: all "
            "float inputs.",
        ),
    ] = None,
    relax: RelaxOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the backward graph of a tap: an ONNX file that computes gradients, for any runtime, with no framework.

    It takes the model's inputs and `cotangent`, shaped like the tap, and gives `activation`, the tap's value, and
    `gradient.<input>`, the gradient of the sum of *cotangent times activation*. For the gradient of one unit, give a
    cotangent that is 1 there and 0 elsewhere:

        ortoscope-server backward net.onnx --tap blocks.10 -o backward.onnx

    A batch size that is fixed in MODEL.onnx is made free, and verified. An operator without a gradient between the tap
    and the input is refused, by name.
    """
    from ortoscope_service.models.onboarding import backward_file  # noqa: PLC0415

    with _telling() as tell:
        written = backward_file(model, tap, output, at=at or (), relax=relax or (), progress=tell)
    _print_gradient_file(output, written, as_json=as_json)


@_command("tangent")
def tangent(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")],
    tap: Annotated[str, typer.Option(metavar="T", help="What is moved: a tap by any of its names, or any tensor.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="Where to write.")],
    relax: RelaxOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the tangent graph from a tap: how all outputs move when the tap does, in one run.

    It takes the model's inputs and `tangent`, shaped like the tap, and gives every output that depends on the tap and,
    for each, `tangent.<output>`: its derivative along the tangent. With the tap's own value as the tangent, at some
    units and sites, that is *activation times gradient* of all classes at once:

        ortoscope-server tangent net.onnx --tap blocks.10 -o tangent.onnx
    """
    from ortoscope_service.models.onboarding import tangent_file  # noqa: PLC0415

    with _telling() as tell:
        written = tangent_file(model, tap, output, relax=relax or (), progress=tell)
    _print_gradient_file(output, written, as_json=as_json)


@_command("zoo")
def zoo(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The model to build. Without a name, the models are listed.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of model packages that it is added to.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.onnx", help="Write the bare ONNX file there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a model of the zoo: nothing is downloaded, its weights come with Ortoscope or another package."""
    from ortoscope_service.models import zoo as entries  # noqa: PLC0415

    if name is None:
        listed = {entry.name: entry.description for entry in entries.ENTRIES.values()}
        if as_json:
            _print_json({"models": [{"name": key, "description": text} for key, text in listed.items()]})
        else:
            sys.stdout.writelines(f"{key}\n  {text}\n" for key, text in listed.items())
        return
    if models is None and output is None:
        raise invalid("NO_DESTINATION", "Say where the model goes: --models DIR (a package) or -o FILE.onnx.")
    if output is not None:
        from ortoscope_service.models.onboarding.exposing import replace_file  # noqa: PLC0415

        replace_file(output, entries.build(name).model)
        if not as_json:
            sys.stdout.write(f"{output}\n")
    if models is not None:
        from ortoscope_service.models.onboarding import prepare_zoo  # noqa: PLC0415
        from ortoscope_service.models.repository import ModelRepository  # noqa: PLC0415

        with _telling() as tell:
            report = prepare_zoo(name, ModelRepository(models), progress=tell)
        _print_report(report, as_json=as_json)
    elif as_json:
        _print_json({"name": name, "output": str(output)})


@_command("render-scenes")
def render_scenes(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; the dataset is named after it.")],
    count: Annotated[int, typer.Option(help="Number of pictures.")] = 240,
    seed: Annotated[int, typer.Option(help="Seed of everything random: the same seed gives the same pictures.")] = 0,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Width and height of the pictures.")] = 224,
    as_json: JsonOption = False,
) -> None:
    """Draw a labelled dataset in Broden's layout: colours, textures, shapes, parts, objects and scenes, exact masks."""
    from ortoscope_service.datasets.rendered_scenes import render_scenes as render  # noqa: PLC0415

    with _counting("drawing") as progress:
        render(output, count=count, seed=seed, size=size, progress=progress)
    if as_json:
        _print_json({"folder": str(output), "images": count, "seed": seed, "size": size})
    else:
        sys.stdout.write(f"{output}: {count} pictures\n")


@_command("validate")
def validate(
    dataset: Annotated[Path, typer.Argument(metavar="DIR", help="The dataset's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Read a whole dataset and say everything that is wrong with it. Exit code 1 if it has errors."""
    from ortoscope_service.datasets.validation import validate as findings_of  # noqa: PLC0415

    with _counting("reading") as progress:
        findings = findings_of(dataset, progress)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        fields = ("severity", "reason", "path", "line", "message")
        _print_json(
            {
                "valid": not errors,
                "findings": [{name: getattr(finding, name) for name in fields} for finding in findings],
            }
        )
    else:
        for finding in findings:
            place = f"{finding.place}: " if finding.place else ""
            sys.stdout.write(f"{finding.severity}: {place}{finding.message} [{finding.reason}]\n")
        sys.stdout.write(f"{dataset}: {errors} errors, {len(findings) - errors} warnings\n")
    if errors:
        raise typer.Exit(1)


def _channels(given: list[str] | None, option: str) -> "Channels | None":
    """One number for all colours, or three: separated by commas or spaces, or as repeated options."""
    if not given:
        return None
    words = " ".join(given).replace(",", " ").split()
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        return numbers[0], numbers[0], numbers[0]
    if len(numbers) != 3:
        shown = " ".join(given)
        raise invalid(
            f"INVALID_{option.upper()}",
            f"--{option} takes one number or three, such as 127 or 123.675,116.28,103.53; it was given '{shown}'.",
            **{option: shown},
        )
    return numbers[0], numbers[1], numbers[2]


def _tap_and_file(given: str) -> tuple[str, Path]:
    """A tap, whose name may hold any character, and a file, parted by the last sign of equality."""
    tap, _, file = given.rpartition("=")
    if not tap or not file:
        raise invalid(
            "INVALID_BACKWARD_GRAPH",
            f"--backward-graph takes a tap and a file, such as blocks.10=backward.onnx; it was given '{given}'.",
            backward_graph=given,
        )
    return tap, Path(file)


def _bytes(given: str) -> int:
    """A number of bytes: digits, and K, M, G or T for powers of 1024; 0 for nothing."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", given.strip().upper()) if given else None
    if given and match is None:
        raise invalid(
            "INVALID_SIZE", f"A size is a number with K, M, G or T, such as 4G; it was given '{given}'.", size=given
        )
    return 0 if match is None else int(match[1]) * 1024 ** " KMGT".index(match[2] or " ")


def _size(given: str | None) -> tuple[int, int] | None:
    """Height and width: one number for both, or HxW."""
    if given is None:
        return None
    words = given.lower().split("x")
    if len(words) > 2 or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise invalid(
            "INVALID_SIZE",
            f"--size takes a number of pixels or HxW, such as 224 or 240x320; it was given '{given}'.",
            size=given,
        )
    return int(words[0]), int(words[-1])


def _print_report(report: "OnboardingReport", *, as_json: bool) -> None:
    if as_json:
        _print_json(report.to_json())
    else:
        sys.stdout.write(report.render())
    for warning in report.warnings:
        sys.stderr.write(f"warning: {warning}\n")


def _print_gradient_file(output: Path, written: "GradientFile", *, as_json: bool) -> None:
    if as_json:
        _print_json({"file": str(output), **written.to_json()})
    else:
        sys.stdout.write(f"{output}: {written.render()}")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """Shows on stderr what is being done: a line that changes on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield lambda text: console.print(f"{text} …", highlight=False)


@contextlib.contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
