"""What is told of a visualization: attempts and octaves only ever go up, and the last step is the last there is."""

from collections.abc import Sequence

import numpy as np
import pytest
from ortoscope.climbing import Climb
from ortoscope_service.analysis.visualization.loop import Progress
from ortoscope_service.api.visualization_results import progress_message
from ortoscope_service.api.visualization_story import Story, Told


def progress(attempt: int, step: int, steps: int = 5) -> Progress:
    picture = np.ones((1, 3, 2, 2), np.float32)
    return Progress(attempt, step, steps, np.array([step], np.float32), np.ones(1, np.float32), picture)


def whole_story(attempts: int, octaves: int, seeds: int) -> Sequence[Told]:
    """All that a call of that many climbs tells, image comparison included."""
    told: list[Told] = []
    story = Story(attempts, octaves, seeds, told.append)
    for climb in range(1 + seeds):
        for octave in range(octaves):
            for attempt in range(attempts):
                for step in range(1, 6):
                    story.step_of(climb, octave, progress(attempt, step))
        if not climb:
            story.sign_of_life("comparing with images", 1, 1)
    return told


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("octaves", [1, 4])
@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_a_client_that_counts_steps_sees_each_once_and_all_at_the_end(attempts: int, octaves: int, seeds: int) -> None:
    climbs = [Climb.from_proto(progress_message(told).progress) for told in whole_story(attempts, octaves, seeds)]
    one_climb, total = attempts * octaves * 5, attempts * octaves * 5 * (1 + seeds)
    assert [climb.done_steps for climb in climbs] == [
        *range(1, one_climb + 1),
        one_climb,
        *range(one_climb + 1, total + 1),
    ]
    assert {climb.total_steps for climb in climbs} == {total}


def test_work_without_steps_tells_the_last_step_again_without_its_pictures() -> None:
    told: list[Told] = []
    story = Story(1, 1, 0, told.append)
    story.sign_of_life("comparing with images", 1, 1)
    assert told == []  # there was no step yet
    story.step(0, progress(0, 4))
    story.sign_of_life("comparing with images", 1, 1)
    first, again = (progress_message(each).progress for each in told)
    assert (len(first.previews), len(again.previews), list(again.clean_objective)) == (1, 0, [])
    assert (again.step, list(again.objective)) == (4, [4.0])
    assert told[1].size == 4 < told[0].size
