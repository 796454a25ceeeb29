"""The service `ortoscope.v1.Visualization`: climbs that stream, and presets.

Unit sheets are in `api.unit_sheets`, patches in `api.patches`. A climb runs in a thread of its own, its models in the
process that has those of all calls; the thread of the call passes on what it tells. Few climb at once, first come,
first served. What came of one is kept, and told again.
"""

import logging
import time
from collections.abc import Callable, Iterator

import grpc
from google.protobuf.message import DecodeError
from ortoscope.v1 import visualization_pb2

from ortoscope_service.analysis.visualization.loop import Visualization
from ortoscope_service.analysis.visualization.png import canonical_json
from ortoscope_service.analysis.visualization.presets import PRESETS
from ortoscope_service.analysis.visualization.settings import preset_settings
from ortoscope_service.analysis.visualization.verdict import Verdict, judge
from ortoscope_service.api.calls import bind_cancellation
from ortoscope_service.api.components import Components
from ortoscope_service.api.pages import page_of
from ortoscope_service.api.patches import PatchesServicer
from ortoscope_service.api.provenance import provenance_message
from ortoscope_service.api.unit_sheets import UnitSheetsServicer
from ortoscope_service.api.visualization_events import Work
from ortoscope_service.api.visualization_queue import Turn, VisualizationQueue
from ortoscope_service.api.visualization_requests import Asked, read_request
from ortoscope_service.api.visualization_results import history_tensor, progress_message, result_items
from ortoscope_service.api.visualization_story import Story, Told
from ortoscope_service.jobs.failures import is_disk_full
from ortoscope_service.jobs.provenance import Computation, spec_digest
from ortoscope_service.runtime.cancellation import Cancellation

_LOG = logging.getLogger(__name__)
_Climb = Work[Told, visualization_pb2.VisualizationResult]


class VisualizationServicer(UnitSheetsServicer, PatchesServicer):
    """Climbs objectives, of one request or of all units of a tap, and lists presets."""

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        config = components.config
        self._queue = VisualizationQueue(config.visualizations.at_once, config.waiting_visualizations)

    def Visualize(
        self, request: visualization_pb2.VisualizeRequest, context: grpc.ServicerContext
    ) -> Iterator[visualization_pb2.VisualizeResponse]:
        """Climbs an objective, and tells how it goes."""
        cancellation = bind_cancellation(context, self._components.limits.visualization_deadline_seconds)
        asked = read_request(self._components, request, cancellation)
        yield from _Call(self._components, asked, cancellation).respond(self._queue)

    def ListPresets(
        self, request: visualization_pb2.ListPresetsRequest, context: grpc.ServicerContext
    ) -> visualization_pb2.ListPresetsResponse:
        """Lists the presets, with every setting that can be changed."""
        page = page_of(
            tuple(PRESETS.values()), self._components.page(request.page_size, request.page_token, "ListPresets")
        )
        return visualization_pb2.ListPresetsResponse(
            presets=[
                visualization_pb2.Preset(
                    name=preset.name,
                    summary=preset.summary,
                    source=preset.source,
                    needs_start=preset.needs_start,
                    settings=preset_settings(preset),
                )
                for preset in page.items
            ],
            next_page_token=page.next_page_token,
        )


class _Call:
    """A call of Visualize whose request is in order."""

    def __init__(self, components: Components, asked: Asked, cancellation: Cancellation) -> None:
        self._components = components
        self._asked = asked
        self._cancellation = cancellation
        self._kept = components.store.visualizations

    def respond(self, queue: VisualizationQueue) -> Iterator[visualization_pb2.VisualizeResponse]:
        """Waits for its turn, climbs, and keeps what came of it; unless that is kept already."""
        kept = self._find()
        if kept is not None:
            yield kept
            return
        turn = queue.enter()
        try:
            for ahead in turn.wait(self._cancellation):
                yield visualization_pb2.VisualizeResponse(queued=visualization_pb2.VisualizationQueued(ahead=ahead))
            kept = self._find()  # an equal request may have been before it
            work = None if kept is not None else self._begin(turn)
        except BaseException:
            turn.leave()
            raise
        if work is not None:
            yield from self._follow(work)
        elif kept is not None:
            turn.leave()
            yield kept

    def _find(self) -> visualization_pb2.VisualizeResponse | None:
        content = self._kept.find(self._asked.key)
        if content is None:
            return None
        try:
            result = visualization_pb2.VisualizationResult.FromString(content)
        except DecodeError:
            return None
        result.cached = True
        return visualization_pb2.VisualizeResponse(result=result)

    def _begin(self, turn: Turn) -> _Climb:
        """Begins to climb in a thread of its own, which gives the turn up: who reads slowly holds nobody up."""

        def do(tell: Callable[[Told, int], None]) -> visualization_pb2.VisualizationResult:
            try:
                return self._result(lambda told: tell(told, told.size))
            finally:
                turn.leave()

        work: _Climb = Work(do)
        work.start()
        return work

    def _follow(self, work: _Climb) -> Iterator[visualization_pb2.VisualizeResponse]:
        """Passes on what a climb tells, and its result."""
        try:
            for told in work.events():
                yield progress_message(told)
        finally:
            if not work.ended:
                self._cancellation.cancel()  # nobody reads what it tells any more
            work.join()
        yield visualization_pb2.VisualizeResponse(result=work.result())

    def _result(self, tell: Callable[[Told], None]) -> visualization_pb2.VisualizationResult:
        """Everything there is to compute."""
        asked, began = self._asked, time.time()
        deadline = None if asked.budget_seconds is None else time.monotonic() + asked.budget_seconds
        prepared, seeds = asked.prepared, 0 if asked.compared is None else asked.compared.seeds
        story = Story(prepared.spec.preset.recipe.attempts, len(prepared.octaves), seeds, tell)
        found = prepared.run(
            budget_seconds=asked.budget_seconds,
            progress=story.step,
            picture_every=asked.preview_every,
            cancellation=self._cancellation,
        )
        left = None if deadline is None else deadline - time.monotonic()
        verdicts = self._verdicts(found, left, story)
        compared = asked.compared
        result = visualization_pb2.VisualizationResult(
            items=result_items(found, asked.specification, verdicts, None if compared is None else compared.name),
            history=history_tensor(found.history),
            spec_json=canonical_json(asked.specification),
            provenance=provenance_message(asked.version, self._computation(began)),
        )
        in_time = left is None or left > 0
        if in_time and all(len(verdict.seed_objectives) == seeds for verdict in verdicts):
            self._keep(result)
        return result

    def _verdicts(self, found: Visualization, budget_seconds: float | None, story: Story) -> tuple[Verdict, ...]:
        compared = self._asked.compared
        if compared is None:
            return ()
        return judge(
            self._asked.prepared,
            found.pictures,
            compared.dataset,
            images=compared.images,
            examples=compared.examples,
            seeds=compared.seeds,
            budget_seconds=budget_seconds,
            cancellation=self._cancellation,
            progress=story.sign_of_life,
            on_step=story.step_of,
        )

    def _computation(self, began: float) -> Computation:
        asked = self._asked
        execution = self._components.execution.by(*asked.sessions.opened)
        preprocessing = asked.prepared.program.model_input.preprocessing
        compared = asked.compared
        return Computation(
            execution=execution,
            spec_digest=spec_digest(asked.specification),
            preprocessing="" if preprocessing is None else preprocessing.describe(),
            items=asked.prepared.spec.items,
            start_time=began,
            end_time=time.time(),
            dataset="" if compared is None else str(compared.name),
            dataset_digest="" if compared is None else compared.dataset.digest(),
        )

    def _keep(self, result: visualization_pb2.VisualizationResult) -> None:
        """Keeps a result for the next equal request, if there is room."""
        start, limit = self._asked.start, self._components.limits.kept_visualization_bytes
        beside = {"start": start.content} if start is not None and start.content else {}
        try:
            self._kept.keep(self._asked.key, result.SerializeToString(deterministic=True), limit, beside)
        except Exception as error:
            if not is_disk_full(error):
                raise
            _LOG.warning("the disk is too full to keep the result of a visualization")
