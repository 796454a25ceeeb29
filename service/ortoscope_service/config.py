"""How a server is set up: where its data lies, where it listens, and how much it takes at a time."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """How much a server takes at a time. Published by `Capabilities.GetCapabilities`; errors name what was exceeded."""

    max_message_bytes: int = 64 * 1024**2
    """Largest request or response message: a hundred images as float32 tensors, yet a call cannot fill the memory."""

    max_items_per_request: int = 64
    """Most items of one request, or of one message of a stream."""

    max_attributions_per_request: int = 4096
    """Most items times selections of one AttributeClasses request. Each costs a pass through the part of the model
    behind the tap; so many are all sites of a map of 64 x 64."""

    max_page_size: int = 1000
    """Most results on a page of a list."""

    max_blob_bytes: int = 4 * 1024**3
    """Largest blob that can be written."""

    max_concurrent_rpcs: int = 32
    """Most calls that are worked on at once; health checks do not count."""

    default_deadline_seconds: int = 300
    """Deadline of a call that came without one, so that no caller holds a thread for ever."""

    max_pending_operations: int = 100
    """Most operations that wait or run at once."""

    operation_retention_seconds: int = 30 * 86400
    """How long the record of an operation is kept after it ended, and the result of a visualization after it was made,
    in seconds that the server runs: 30 days."""

    max_visualization_items: int = 64
    """Most items of one Visualize request."""

    max_visualization_pixels: int = 2048**2
    """Most pixels of all items of one Visualize request: as many as fit into a message, as numbers and as PNG."""

    max_visualization_steps: int = 20_000
    """Most steps of one Visualize request, over all of its attempts and octaves."""

    max_waiting_visualizations: int = 20
    """Most Visualize calls that wait for their turn. Each holds one of the calls that are worked on at once; together
    with those that climb, two thirds of them are the limit, so that others find a place."""

    visualization_deadline_seconds: int = 6 * 3600
    """Deadline of a Visualize call that came without one: long climbs behind other long climbs, yet not for ever."""

    kept_visualization_bytes: int = 4 * 1024**3
    """Most bytes of results of visualizations that are kept for when they are asked for again; the oldest go first."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files for transport security."""

    certificate: Path
    """The server's certificate chain."""

    private_key: Path
    """The key of that certificate."""

    client_authority: Path | None = None
    """Certificates of the authorities that sign clients. If given, a client without such a certificate is refused."""


@dataclass(frozen=True)
class ClusterConfig:
    """A Dask cluster that does the work of operations. Its workers see store, models and datasets at the same paths."""

    address: str
    """The scheduler: tls://HOST:PORT, or tcp://HOST:PORT on a loopback address."""

    certificate: Path | None = None
    """PEM file of the certificate that the service shows the scheduler."""

    private_key: Path | None = None
    """PEM file of its key."""

    authority: Path | None = None
    """PEM file of the authorities that sign the certificates of the cluster."""

    allow_plain_tcp: bool = False
    """Allow tcp:// on an address that other machines reach. Said aloud because whoever reaches a scheduler runs code on
    its workers."""


@dataclass(frozen=True)
class JobsConfig:
    """Who does the work of operations, and with what. No part of it but `threads` decides the bits of a result."""

    workers: int = 0
    """Worker processes on this machine; 0: one per available thread, or a single one for other providers than the
    CPU's, and no more than there is memory for."""

    threads: int = 1
    """Threads that ONNX Runtime uses inside an operator. One, because workers side by side do more than threads that
    wait for each other; part of what decides the last bits of a result."""

    memory_bytes: int = 0
    """Most memory of a worker; 0: an equal share of four fifths of what there is, for each worker and the calls."""

    operations: int = 4
    """Operations that run at once. They take turns shard by shard, so that a short one does not wait for the end of a
    long one; more of them would only share the same workers."""

    niceness: int = 10
    """How far workers stand back behind calls, as nice(1) has it: an equal share of a core becomes a tenth."""

    stall_seconds: float = 300.0
    """A shard that gives no sign of life (a batch that is done, a file that is read) for so long is given up."""

    cluster: ClusterConfig | None = None
    """Workers elsewhere; None: on this machine."""


@dataclass(frozen=True)
class VisualizationConfig:
    """How visualizations share the machine with other calls."""

    at_once: int = 1
    """Visualize calls that climb at once. One has all threads; more take turns, each slower, but a short one does not
    wait for the end of a long one."""


@dataclass(frozen=True)
class ServerConfig:
    """Everything that a server is told at its start."""

    models: Path
    """Folder of model packages, as `ortoscope-server prepare` fills it."""

    store: Path
    """Folder for operations, results and blobs, on a local disk. Made if it does not exist; one server at a time."""

    datasets: Path | None = None
    """Folder whose children are the datasets, each by its folder name. None: the server has no datasets."""

    listen: str = "127.0.0.1:50051"
    """HOST:PORT. Port 0 takes any free one. Anything but a loopback address needs `tls`, or `insecure`."""

    tls: TlsFiles | None = None
    """Transport security; plain text if None."""

    insecure: bool = False
    """Listen in plain text on an address that other machines reach. Said aloud because anyone there may then call."""

    execution_provider: str = "CPUExecutionProvider"
    """ONNX Runtime's name of what computes. One that is not installed is refused at the start; a graph on which it does
    not give the CPU provider's numbers is served by that one."""

    threads: int = 0
    """Threads that ONNX Runtime uses inside an operator in calls; 0: what CPU affinity and cgroup quota allow."""

    batch_size: int = 16
    """Images per run of a model."""

    call_memory_bytes: int = 0
    """Most memory of the process that runs models for calls; 0: the share of a worker."""

    session_memory_bytes: int = 0
    """Memory with which that process keeps sessions that were used, the longest unused dropped first; 0: half of what
    it may have."""

    jobs: JobsConfig = field(default_factory=JobsConfig)
    """Who does the work of operations, and with what."""

    visualizations: VisualizationConfig = field(default_factory=VisualizationConfig)
    """How visualizations share the machine with other calls."""

    grace_seconds: float = 10.0
    """How long calls and operations under way may go on after the server was asked to stop."""

    metrics_listen: str = ""
    """HOST:PORT of Prometheus metrics over HTTP; none if empty. The same rule for addresses as for `listen`."""

    limits: Limits = field(default_factory=Limits)
    """How much the server takes at a time."""

    @property
    def waiting_visualizations(self) -> int:
        """Most Visualize calls that wait for their turn: with those that climb they hold two thirds of all calls."""
        others = 2 * self.limits.max_concurrent_rpcs // 3 - self.visualizations.at_once
        return max(1, min(self.limits.max_waiting_visualizations, others))
