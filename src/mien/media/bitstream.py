"""What a packet says of itself before it is decoded: where decoding can start afresh, and what may be left out.

Only what keeps every wanted picture exact counts here. A key frame of H.264 isn't enough: with open groups of pictures,
frames after it may refer to frames before it, unless it is an IDR picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
from av.video.stream import VideoStream

INTRA_ONLY = frozenset(
    {
        "mjpeg",
        "mjpegb",
        "prores",
        "dnxhd",
        "ffv1",
        "rawvideo",
        "png",
        "huffyuv",
        "ffvhuff",
        "utvideo",
        "dvvideo",
        "jpeg2000",
    }
)
"""Codecs of key frames only, as far as people use them."""

ANY_KEY_FRAME = INTRA_ONLY | {"vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "h263"}
"""Codecs whose every key frame is such a start: pictures that follow it in both orders refer to nothing before it."""

SKIPS_UNREFERENCED = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs whose decoder leaves out pictures that nothing refers to, and nothing else. VP8 and VP9 adapt their
probabilities on such pictures too; dav1d decides when it is opened."""

H264_IDR, H264_PARAMETERS, H264_SLICES = 5, frozenset({7, 8, 13, 15}), range(1, 6)
"""Types of network abstraction units (ITU-T H.264, table 7-1): IDR slice, parameter sets, slices."""

HEVC_IRAP, HEVC_PARAMETERS, HEVC_SLICES = range(16, 24), frozenset({32, 33, 34}), range(32)
"""The same for ITU-T H.265, table 7-1: random access pictures, parameter sets, slices."""

HVCC_LAYERS_BYTE = 21
"""Byte of an `hvcC` record (ISO/IEC 14496-15) with the number of temporal layers and the length of unit lengths."""


@dataclass(frozen=True)
class Look:
    """What a packet is.

    Attributes:
        starts: A decoder that begins here gives the same pictures as one that comes from before, from this one on.
        parameters: It carries parameter sets, on which later packets may depend.
    """

    starts: bool
    parameters: bool = False


class Bitstream:
    """Looks at a stream's packets.

    Args:
        stream: The video stream.

    Attributes:
        codec: Name of the codec.
        is_known: There are rules for it; else every packet has to be decoded.
        skips_unreferenced: The decoder can leave out what nothing refers to, exactly.
    """

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        self.codec = context.codec.canonical_name
        self._in_units = self.codec in ("h264", "hevc")
        self.is_known = self._in_units or self.codec in ANY_KEY_FRAME
        extradata = context.extradata or b""
        self._length_size = _length_size(extradata, codec=self.codec) if self._in_units else None
        self.skips_unreferenced = self.codec in SKIPS_UNREFERENCED
        if self.codec == "hevc":
            # "Unreferenced" holds for pictures of the same temporal layer: those of higher ones may refer to it.
            self.skips_unreferenced = _num_temporal_layers(extradata) == 1

    def look(self, packet: av.Packet[Any]) -> Look:
        """Tell what a packet is; damage reads as "no start"."""
        if not self._in_units:
            return Look(starts=packet.is_keyframe)
        parameters = False
        for first in self._unit_heads(memoryview(packet)):
            kind = first & 31 if self.codec == "h264" else first >> 1 & 63
            if kind in (H264_PARAMETERS if self.codec == "h264" else HEVC_PARAMETERS):
                parameters = True
            elif kind in (H264_SLICES if self.codec == "h264" else HEVC_SLICES):
                is_start = kind == H264_IDR if self.codec == "h264" else kind in HEVC_IRAP
                return Look(starts=packet.is_keyframe and is_start, parameters=parameters)
        return Look(starts=False, parameters=parameters)

    def _unit_heads(self, data: memoryview) -> list[int]:
        """Return the first byte of each unit up to the first slice, at most 16 (parameter sets come before slices)."""
        heads: list[int] = []
        position, whole = 0, b"" if self._length_size else bytes(data)
        while len(heads) < 16:
            if self._length_size:
                start = position + self._length_size
                position = start + int.from_bytes(data[position:start], "big")
            else:
                found = whole.find(b"\x00\x00\x01", position)
                start = position = found + 3 if found >= 0 else len(data)
            if start >= len(data):
                break
            heads.append(data[start])
        return heads


def _length_size(extradata: bytes, *, codec: str) -> int | None:
    """Return how many bytes give a unit's length; None where units begin with a start code (ITU-T H.264, annex B)."""
    place = 4 if codec == "h264" else HVCC_LAYERS_BYTE
    if len(extradata) <= place or extradata[0] != 1:
        return None
    return (extradata[place] & 3) + 1


def _num_temporal_layers(extradata: bytes) -> int | None:
    """Return how many temporal layers an HEVC stream declares, None where it doesn't say."""
    if len(extradata) > HVCC_LAYERS_BYTE and extradata[0] == 1:
        return extradata[HVCC_LAYERS_BYTE] >> 3 & 7 or None
    found = extradata.find(b"\x00\x00\x01\x40\x01")  # the header of a video parameter set
    # After the header: 4 bits id, 2 flags, 6 bits layers, then 3 bits temporal layers - 1 (ITU-T H.265, 7.3.2.1).
    return (extradata[found + 6] >> 1 & 7) + 1 if 0 <= found < len(extradata) - 6 else None
