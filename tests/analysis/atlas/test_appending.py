"""Which icons are kept when samples are added, on cells whose means are known."""

import numpy as np
from numpy.typing import NDArray
from ortoscope_service.analysis.atlas.appending import plan_icons
from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.icons import IconSettings

_SPACE = IconSpace(None, 1.0)


def _cells(column: list[int], degrees: list[float], shared: list[int] | None = None) -> Cells:
    """Cells of one row whose means point where the angles say; the first has most samples."""
    count = len(column)
    angle = np.deg2rad(degrees)
    return Cells(
        grid=10,
        row=np.zeros(count, np.int32),
        column=np.array(column, np.int32),
        count=np.arange(count, 0, -1, dtype=np.int64),
        mean=np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32),
        dispersion=np.zeros(count, np.float32),
        nearest=np.full((count, 4), -1, np.int64),
        crop=np.full((count, 4), -1, np.int32),
        parent=np.full(count, -1, np.int32),
        shared=None if shared is None else np.array(shared, np.int32),
    )


def _above(degrees: float) -> IconSettings:
    return IconSettings(share_above=float(np.cos(np.deg2rad(degrees))))


def _told(plan_array: NDArray[np.generic]) -> list[int]:
    return [int(value) for value in plan_array]


def test_icons_are_kept_as_long_as_the_mean_is_within_the_angle() -> None:
    before = _cells([0, 2, 4], [0, 40, 80], [0, 1, 2])
    plan = plan_icons(_cells([0, 2, 4], [9, 40, 91]), before, _SPACE, _above(10))
    assert _told(plan.before) == [0, 1, -1]
    assert _told(plan.shared) == [0, 1, 2]
    assert _told(plan.drawn) == [2]


def test_the_mean_that_counts_is_that_which_the_icon_was_drawn_for() -> None:
    # The second cell borrowed the icon of the first, 8 degrees away; a further 8 are too much.
    before = _cells([0, 1], [0, 8], [0, 0])
    assert _told(plan_icons(_cells([0, 1], [0, 8]), before, _SPACE, _above(10)).before) == [0, 0]
    moved = plan_icons(_cells([0, 1], [0, 16]), before, _SPACE, _above(10))
    assert _told(moved.before) == [0, -1]
    assert _told(moved.shared) == [0, 1]


def test_cells_with_the_same_kept_icon_share_it() -> None:
    before = _cells([0, 1, 2], [0, 5, 50], [0, 0, 2])
    plan = plan_icons(_cells([0, 1, 2], [0, 5, 50]), before, _SPACE, _above(10))
    assert _told(plan.shared) == [0, 0, 2]
    assert not len(plan.drawn)


def test_new_cells_are_drawn_and_share_among_themselves() -> None:
    before = _cells([5], [0], [0])
    plan = plan_icons(_cells([0, 1, 5], [60, 63, 0]), before, _SPACE, _above(10))
    assert _told(plan.before) == [-1, -1, 0]
    assert _told(plan.shared) == [0, 0, 2]
    assert _told(plan.drawn) == [0]


def test_where_no_icons_are_shared_only_equal_means_keep_theirs() -> None:
    before = _cells([0, 1], [0, 50], [0, 1])
    plan = plan_icons(_cells([0, 1], [0, 51]), before, _SPACE, IconSettings(share_above=1.0))
    assert _told(plan.before) == [0, -1]


def test_all_are_drawn_if_there_were_no_icons() -> None:
    for before in (None, _cells([0], [0])):
        assert _told(plan_icons(_cells([0], [0]), before, _SPACE, _above(10)).drawn) == [0]
