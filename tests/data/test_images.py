"""Decoding, and the threads that do it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from netc.data.images import decode, opencv, resize
from tests.data.samples import encoded, pixels


def test_opencv_runs_in_one_thread() -> None:
    assert opencv().getNumThreads() == 1


@pytest.mark.parametrize(("color", "channels"), [(True, 3), (False, 1), (None, 4)])
def test_channels_come_first_and_blue_first_of_them(color: bool | None, channels: int) -> None:
    image = np.zeros((2, 3, 4), np.uint8)
    image[..., 0], image[..., 3] = 200, 255  # blue, opaque
    found = decode(encoded(image).data, color)
    assert found is not None
    assert found.shape == (channels, 2, 3)
    if color is False:
        assert int(found[0, 0, 0]) in (22, 23)  # 0.114 of the blue, rounded either way
    else:
        assert found[:, 0, 0].tolist() == [200, 0, 0, 255][:channels]


def test_the_orientation_of_a_camera_is_ignored() -> None:
    ok, jpeg = cv2.imencode(".jpg", pixels(8, 16, 3))
    assert ok
    # An EXIF block that says "turn by 90 degrees", put behind the start marker.
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    content = jpeg.tobytes()
    turned = content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (16, 8, 3)
    for color, channels in ((True, 3), (False, 1), (None, 3)):
        found = decode(turned, color)
        assert found is not None
        assert found.shape == (channels, 8, 16)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image(content: bytes) -> None:
    assert decode(content, True) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing(channels: int) -> None:
    image = pixels(4, 6, channels)
    found = resize(image.transpose(2, 0, 1), 8, 3)
    np.testing.assert_array_equal(
        found, np.atleast_3d(cv2.resize(image, (3, 8))).transpose(2, 0, 1)
    )
