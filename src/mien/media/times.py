"""Times of a video's frames, for exports that number frames instead of saying when they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.media.video import decode


def frame_times(path: Path) -> NDArray[np.float64]:
    """Return the presentation times (F,) of all frames of a video, s, in order.

    Every frame is decoded, because a tool numbered the frames that its decoder gave it, not the packets of the file.

    Raises:
        MediaError: The file can't be opened, has no video stream, or no frame can be decoded.
    """
    return np.fromiter((frame.pts_s for frame in decode(path)), dtype=np.float64)
