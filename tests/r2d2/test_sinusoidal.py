"""Sines as a start for positions: neighbours are alike, far places are not, and a grid tells rows from columns."""

from __future__ import annotations

import pytest
from torch.nn import functional as F

from ccmb.r2d2.sinusoidal import grid_positions, sine_positions
from tests.helpers.exact import PROOFS, assert_same

pytestmark = PROOFS


@pytest.mark.parametrize("length", [5, 24, 64])
def test_likeness_falls_with_distance_and_depends_on_it_alone(length: int) -> None:
    positions = F.normalize(sine_positions(length, 64), dim=1)
    likeness = positions @ positions.T
    for distance in range(length):
        diagonal = likeness.diagonal(distance)
        assert_same(diagonal, diagonal[:1].expand_as(diagonal))
    assert likeness[0, 0] > likeness[0, 1] > likeness[0, 2]
    assert (likeness[0, 1:] < 0.97).all()


def test_a_grid_has_a_half_for_rows_and_one_for_columns_and_nothing_for_the_first_token() -> None:
    side, width = 5, 32
    positions = grid_positions(side, width)
    assert positions.shape == (1 + side**2, width)
    assert not positions[0].any()
    patches = positions[1:].view(side, side, width)
    assert (patches[:, :1, : width // 2] == patches[:, :, : width // 2]).all()
    assert (patches[:1, :, width // 2 :] == patches[:, :, width // 2 :]).all()
    assert len(patches.view(-1, width).unique(dim=0)) == side**2
