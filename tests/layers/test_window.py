from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netc.layers.window import Slide, extent, fold, taps, unfold
from tests.support.layer_harness import smooth

slides = st.builds(
    Slide,
    pixels=st.integers(1, 8),
    places=st.integers(1, 6),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    pad=st.integers(0, 5),
    dilation=st.integers(1, 3),
)


@given(slides)
def test_a_tap_meets_the_pixels_it_should(slide):
    for tap in range(slide.kernel):
        places, pixels = slide.tap(tap)
        met = dict(zip(range(slide.places)[places], range(slide.pixels)[pixels], strict=True))
        all_places = {
            place: place * slide.stride - slide.pad + tap * slide.dilation
            for place in range(slide.places)
        }
        assert met == {k: v for k, v in all_places.items() if 0 <= v < slide.pixels}


@given(slides)
def test_end_pad_is_what_the_last_window_needs(slide):
    last = (slide.places - 1) * slide.stride - slide.pad + (slide.kernel - 1) * slide.dilation
    assert slide.end_pad == last - (slide.pixels - 1)
    assert extent(slide.kernel, slide.dilation) == len(
        range(0, (slide.kernel - 1) * slide.dilation + 1)
    )


@given(st.tuples(slides, slides))
def test_fold_is_the_transpose_of_unfold(two):
    image = smooth(2, 3, *(s.pixels for s in two))
    columns = unfold(np, image, two)
    assert columns.shape == (3, *(s.kernel for s in two), 2, *(s.places for s in two))
    other = smooth(*columns.shape, seed=1)
    back = np.zeros_like(image)
    fold(other, two, back)
    np.testing.assert_allclose((columns * other).sum(), (image * back).sum(), atol=1e-9)


def test_the_last_axis_of_a_kernel_is_the_fastest():
    two = (Slide(4, 3, 2), Slide(5, 3, 3))
    assert [tap for tap, _, _ in taps(two)] == list(np.ndindex(2, 3))
