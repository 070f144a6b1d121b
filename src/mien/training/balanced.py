"""Batches in which every participant comes equally often, however long each was recorded.

An epoch shows as many labelled frames as there are. Who has fewer than a fair share of them comes several times, each
frame equally often but for one; who has more is seen in another part in each epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mien.training.loaders import EpochBatches, FrameSet, Rows


class BalancedBatches(EpochBatches):
    """Labelled rows, the same number of each participant per epoch."""

    def __init__(self, frames: FrameSet, *, batch_size: int, seed: int) -> None:
        super().__init__(seed)
        people = frames.participants[frames.labelled]
        self.members = [frames.labelled[people == person] for person in np.unique(people)]
        self.share = max(1, round(len(people) / len(self.members)))
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.share * len(self.members) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = self.next_generator()
        drawn = np.concatenate([draw_evenly(rows, num=self.share, generator=generator) for rows in self.members])
        order = generator.permutation(drawn)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size].tolist()


class BalancedRecordingBatches(EpochBatches):
    """Batches of a few recordings with several frames each, the same number of such groups of each participant.

    As `RecordingBatches`, frames without a label among them; recordings without any label aren't dealt.
    """

    def __init__(self, frames: FrameSet, *, batch_size: int, frames_per_recording: int, seed: int) -> None:
        super().__init__(seed)
        with_labels = np.unique(frames.recordings[frames.labelled])
        self.members: dict[int, list[Rows]] = {}
        for recording in with_labels:
            rows = np.flatnonzero(frames.recordings == recording)
            self.members.setdefault(int(frames.participants[rows[0]]), []).append(rows)
        num_rows = sum(len(rows) for recordings in self.members.values() for rows in recordings)
        self.frames_per_recording = frames_per_recording
        self.groups = max(1, round(num_rows / frames_per_recording / len(self.members)))
        self.groups_per_batch = max(1, round(batch_size / frames_per_recording))

    def __len__(self) -> int:
        return -(-self.groups * len(self.members) // self.groups_per_batch)

    def __iter__(self) -> Iterator[list[int]]:
        generator = self.next_generator()
        dealt = [
            group for recordings in self.members.values() for group in self._groups(recordings, generator=generator)
        ]
        order = generator.permutation(len(dealt))
        for start in range(0, len(order), self.groups_per_batch):
            yield np.concatenate([dealt[index] for index in order[start : start + self.groups_per_batch]]).tolist()

    def _groups(self, recordings: list[Rows], *, generator: np.random.Generator) -> list[Rows]:
        """Draw a participant's groups: his recordings in proportion to their length."""
        lengths = np.array([len(rows) for rows in recordings], np.float64)
        shares = np.floor(np.cumsum(lengths) / lengths.sum() * self.groups + 0.5).astype(int)
        groups: list[Rows] = []
        for rows, num in zip(recordings, np.diff(shares, prepend=0), strict=True):
            size = min(len(rows), self.frames_per_recording)
            # A baseline over the same frame twice would be no better than over it once.
            groups += [generator.permutation(rows)[:size] for _ in range(num)]
        return groups


def draw_evenly(rows: Rows, *, num: int, generator: np.random.Generator) -> Rows:
    """Draw `num` of rows (n,): each as often as any other, or once more.

    >>> sorted(draw_evenly(np.array([3, 5]), num=5, generator=np.random.default_rng(0)).tolist())[1:4]
    [3, 3, 5]
    """
    rounds = -(-num // len(rows))
    return np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:num]
