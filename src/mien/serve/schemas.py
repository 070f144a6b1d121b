"""What the service answers, as its OpenAPI description shows it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class JobAnswer(BaseModel):
    """A video on its way to a timeline."""

    job_id: str = Field(description="Name of the job; who has it may read the results.")
    name: str = Field(description="What the client calls the video.")
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    reason: str | None = Field(description="Why it failed, and what can be done about it.")
    what: str | None = Field(description="What is being done.")
    done: int = Field(description="Steps that are done.")
    total: int = Field(description="Steps in all; 0 where nobody knows.")
    position: int | None = Field(description="Jobs that wait before it.")
    frames: int | None = Field(description="Sampled frames.")
    faces: int | None = Field(description="Sampled frames with a face.")


class TimelineAnswer(BaseModel):
    """Probabilities over time; null where nothing is said, since nothing was seen."""

    columns: list[str]
    rows: list[list[Any]]


class ModelAnswer(BaseModel):
    """What the service predicts, and what it is for."""

    target: str
    outputs: list[str]
    kind: str
    label: str = Field(description="The model.")
    label_source: str
    annotated_by: str
    modalities: list[str]
    fps: float
    baseline: str
    intended_use: str
    prohibited_use: str
    version: str
    max_upload_bytes: int
    max_duration_s: float
    keep_s: float


class HealthAnswer(BaseModel):
    """That the service is there."""

    status: Literal["ok"]
    version: str
    intended_use: str
    prohibited_use: str


class ReadyAnswer(BaseModel):
    """Whether it takes another video, and what it is doing."""

    ready: bool
    jobs: dict[str, int]


class Problem(BaseModel):
    """Why a request wasn't served."""

    detail: str
