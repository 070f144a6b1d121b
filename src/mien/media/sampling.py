"""Sampling a video without decoding all of it: which frames are wanted is known before they are decoded.

Packets come in decoding order with their presentation times. Once the decoding time has passed a presentation time,
nothing earlier can follow, so frames can be put in order and chosen from packets alone, a few packets ahead of the
decoder. Then:

* what nothing refers to and nobody wants isn't decoded (with libx264's defaults that is nearly every second frame);
* packets between the last wanted frame and the next point where decoding can start afresh aren't decoded at all, so
  of files that consist of key frames (MJPEG, ProRes) only the wanted ones are;
* nothing is sought: reading packets costs some microseconds each, and with key frames seconds apart a seek per sample
  decodes more than going on.

The pictures are those that decoding everything gives, bit by bit. Where that isn't sure (times missing or unordered,
interlaced pictures, several pictures per packet, damage), the plan is given up and everything is decoded. Only pictures
that are damaged in a way that the decoder doesn't notice, or notices later, may be patched up in another way.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from mien.media.bitstream import Bitstream
from mien.media.container import DecodeLog, Stopwatch, read_packets
from mien.media.pictures import DecodedFrame, Orientation

MAX_HELD_BYTES = 32 * 2**20
"""Packets that are held back until it is known whether a wanted frame needs them. Sparse sampling of long groups of
pictures gets there; then the oldest are decoded, which costs time and no memory."""

MAX_JUMP_S = 600.0
"""A frame so far behind the one before isn't believed until the next one confirms it. Recorders of screens that don't
change write no frame for minutes."""

PACKET_OVERHEAD_BYTES = 1024
"""Of a packet's objects, so that a million tiny packets count, too."""


class PlanBrokenError(Exception):
    """The file isn't as its packets' times say; everything has to be decoded.

    Args:
        reason: Why, one clause.
        is_damage: The decoder found damage.
    """

    def __init__(self, reason: str, *, is_damage: bool = False) -> None:
        super().__init__(reason)
        self.is_damage = is_damage


class SampleRule:
    """Chooses frames that come by increasing time; exactly one of the two is given.

    Args:
        fps: The first frame, then for each instant k / fps the first frame at or after it.
        every: Frames 0, `every`, 2 `every`, ...
    """

    def __init__(self, *, fps: float | None, every: int | None) -> None:
        self._fps, self._every = fps, every
        self._last_slot: int | None = None

    def takes(self, pts_s: float, *, index: int, tick_s: float) -> bool:
        """Tell whether a frame is one of them; "at" an instant means to half a unit of the stream's clock."""
        if self._every is not None:
            slot = index // self._every
        else:
            assert self._fps is not None, "one of both is given"
            slot = math.floor((pts_s + tick_s / 2) * self._fps)
        if self._last_slot is not None and slot <= self._last_slot:
            return False
        self._last_slot = slot
        return True


@dataclass(slots=True, eq=False)
class _Entry:
    """A packet whose frame is wanted, or not, or nobody knows yet (None)."""

    packet: av.Packet[Any]
    pts: int
    starts: bool
    parameters: bool
    wanted: bool | None = None

    @property
    def num_bytes(self) -> int:
        return self.packet.size + PACKET_OVERHEAD_BYTES


class _Plan:
    """Puts packets in order of presentation and decides which are wanted.

    Attributes:
        expected: (pts, index) of wanted frames that haven't come out of the decoder yet.
        num_frames: Frames in order so far.
        last_pts: Time of the last of them.
    """

    def __init__(self, rule: SampleRule, bitstream: Bitstream, *, stream: VideoStream) -> None:
        self._rule, self._bitstream = rule, bitstream
        assert stream.time_base is not None, "FFmpeg gives every video stream a clock"
        self.time_base, self.tick_s = stream.time_base, float(stream.time_base)
        self._queue: deque[_Entry] = deque()
        self._unordered: list[tuple[int, int, _Entry]] = []
        self._num_packets = 0
        self._last_dts: int | None = None
        self.expected: deque[tuple[int, int]] = deque()
        self.num_frames = 0
        self.last_pts: int | None = None

    def add(self, packet: av.Packet[Any]) -> None:
        """Take the next packet in order of decoding.

        Raises:
            PlanBrokenError: Its times don't allow to choose by packets.
        """
        if packet.pts is None:
            raise PlanBrokenError("a packet has no time")
        if packet.has_sidedata("new_extradata"):
            raise PlanBrokenError("the codec's parameters change on the way")
        if packet.dts is not None:
            if packet.pts < packet.dts or (self._last_dts is not None and packet.dts < self._last_dts):
                raise PlanBrokenError("times aren't in order")
            self._last_dts = packet.dts
        look = self._bitstream.look(packet)
        entry = _Entry(packet, packet.pts, starts=look.starts, parameters=look.parameters)
        self._queue.append(entry)
        if packet.is_discard:
            entry.wanted = False  # outside the edit list: decoded where others need it, never shown
        else:
            # The number keeps entries, which have no order, out of the comparison.
            heapq.heappush(self._unordered, (entry.pts, self._num_packets, entry))
        self._num_packets += 1
        while self._unordered and packet.dts is not None and self._unordered[0][0] <= packet.dts:
            self._put_in_order()

    def finish(self) -> None:
        """Decide the rest: no packet follows."""
        while self._unordered:
            self._put_in_order()

    def _put_in_order(self) -> None:
        pts, _, entry = heapq.heappop(self._unordered)
        if self.last_pts is not None and pts <= self.last_pts:
            raise PlanBrokenError("times aren't in order")
        if self.last_pts is not None and (pts - self.last_pts) * self.tick_s > MAX_JUMP_S:
            raise PlanBrokenError("times jump")
        index, self.num_frames, self.last_pts = self.num_frames, self.num_frames + 1, pts
        entry.wanted = self._rule.takes(float(pts * self.time_base), index=index, tick_s=self.tick_s)
        if entry.wanted:
            self.expected.append((pts, index))

    def decided(self) -> Iterator[_Entry]:
        """Take out the packets, in order of decoding, up to the first that isn't decided."""
        while self._queue and self._queue[0].wanted is not None:
            entry = self._queue.popleft()
            # Pictures that are shown before a starting point and come after it may need what lies before it.
            if entry.starts and any(other.wanted and other.pts < entry.pts for other in self._queue):
                entry.starts = False
            yield entry


def wanted_frames(
    container: InputContainer, stream: VideoStream, *, rule: SampleRule, log: DecodeLog
) -> Iterator[DecodedFrame]:
    """Yield the frames that a rule takes, decoding as little as it takes to get them exactly.

    Args:
        container: The open file.
        stream: The video stream, set to one decoder thread.
        rule: Which frames are wanted.
        log: Filled while decoding.

    Raises:
        PlanBrokenError: Everything has to be decoded, from the beginning; what was yielded is right.
        MediaError: Decoding goes on and on without any frame.
    """
    plan = _Plan(rule, Bitstream(stream), stream=stream)
    decoder = _Decoder(container, stream, plan=plan, log=log)
    for packet in read_packets(container, stream.index, log=log):
        if log.num_corrupt:
            raise PlanBrokenError("a part of the file can't be read")
        if packet is None:
            plan.finish()
        else:
            plan.add(packet)
        for entry in plan.decided():
            yield from decoder.take(entry)
        log.num_frames = plan.num_frames
        log.last_pts_s = None if plan.last_pts is None else float(plan.last_pts * plan.time_base)
    yield from decoder.drain()
    if plan.expected:
        raise PlanBrokenError("a frame that was asked for didn't come out of the decoder")


class _Decoder:
    """Decodes what a plan wants and what that needs."""

    def __init__(self, container: InputContainer, stream: VideoStream, *, plan: _Plan, log: DecodeLog) -> None:
        self._context = stream.codec_context
        self._plan, self._log = plan, log
        self._stopwatch = Stopwatch(Path(container.name).name)
        self._skips_unreferenced = Bitstream(stream).skips_unreferenced
        self._held: deque[_Entry] = deque()
        self._held_bytes = 0
        self._has_shown = False
        self._orientation = Orientation()

    def take(self, entry: _Entry) -> Iterator[DecodedFrame]:
        """Take the next decided packet."""
        if entry.starts and self._held and self._can_leave_held(entry):
            yield from self.drain()
            self._context.flush_buffers()
            self._held.clear()
            self._held_bytes = 0
        self._held.append(entry)
        self._held_bytes += entry.num_bytes
        while self._held and (entry.wanted or self._held_bytes > MAX_HELD_BYTES):
            first = self._held.popleft()
            self._held_bytes -= first.num_bytes
            yield from self._send(first)

    def _can_leave_held(self, entry: _Entry) -> bool:
        return entry.parameters or not any(held.parameters for held in self._held)

    def drain(self) -> Iterator[DecodedFrame]:
        """Let out what the decoder keeps for reordering."""
        yield from self._decode(None)

    def _send(self, entry: _Entry) -> Iterator[DecodedFrame]:
        # The first frame tells whether pictures are interlaced; until it is there, everything is decoded.
        leaves_out = self._skips_unreferenced and self._has_shown and not entry.wanted
        self._context.skip_frame = "NONREF" if leaves_out else "DEFAULT"
        yield from self._decode(entry.packet)

    def _decode(self, packet: av.Packet[Any] | None) -> Iterator[DecodedFrame]:
        try:
            pictures = self._stopwatch.decode(self._context.decode, packet)
        except av.FFmpegError as error:
            raise PlanBrokenError("a packet is damaged", is_damage=True) from error
        expected = self._plan.expected
        for picture in pictures:
            self._log.num_decoded += 1
            self._has_shown = True
            if picture.interlaced_frame:
                # A packet may hold one field, so packets are no frames.
                raise PlanBrokenError("pictures are interlaced")
            if picture.pts is None or (expected and picture.pts > expected[0][0]):
                raise PlanBrokenError("a frame that was asked for didn't come out of the decoder")
            if expected and picture.pts == expected[0][0]:
                if picture.is_corrupt:
                    raise PlanBrokenError("a frame is damaged", is_damage=True)
                pts, index = expected.popleft()
                pts_s = float(pts * self._plan.time_base)
                yield DecodedFrame(
                    pts_s=pts_s,
                    index=index,
                    picture=picture,
                    tick_s=self._plan.tick_s,
                    orientation=self._orientation,
                )
