"""The VideoData layer's source, which there is none of."""

from __future__ import annotations

from netc.data.source import DataAbsent, Item, Opening
from netc.layers.video import VideoData, VideoType


class VideoSource:
    """Says that no frames can be had, and which ones the settings suggest."""

    def __init__(self, layer: VideoData, opening: Opening) -> None:
        """Raise DataAbsent."""
        camera = layer.video_type is VideoType.WEBCAM
        raise DataAbsent(
            "netc reads no camera" if camera else "netc decodes no videos",
            expected="images in files",
            got=f"device {layer.device_id}" if camera else f"'{layer.video_file}'",
            hint="save the frames as images and list them in an ImageData layer, or set the blob "
            "through pycaffe",
            setting="device_id" if camera else "video_file",
        )

    @staticmethod
    def assume(layer: VideoData, opening: Opening) -> Item | None:
        """Return frames of the size that the transformation gives them."""
        frame = layer.frame()
        if frame is None:
            return None
        return Item((frame,), f"frames of shape {frame} are assumed, from transform_param")
