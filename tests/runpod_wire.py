"""What goes over RunPod's wire: jobs, calls, replies, and the limits that production sets."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

ENDPOINT = "loopback"
KEY = "rpa_loopback"
MB = 1_000_000
RUN_LIMIT, RUNSYNC_LIMIT, PIECE_LIMIT = 10 * MB, 20 * MB, MB

Status = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]


@dataclass(frozen=True, slots=True)
class Event:
    """A request and its answer. `kind` is the path's verb, or `progress` for an IN_PROGRESS post to
    job-done. `status` is the HTTP status, 0 where the connection was cut. `body` is what was
    posted, or the query of a GET; `size` is in bytes."""

    at: float  # time.monotonic(), which all processes of a machine share
    kind: str
    jobs: tuple[str, ...]
    worker: str
    status: int
    size: int
    body: Any


@dataclass(slots=True)
class Job:
    """A job as RunPod sees it. `wire` is what a worker is given; `pieces` were streamed."""

    wire: dict[str, Any]
    limit: int
    status: Status = "IN_QUEUE"
    output: Any = None
    error: str | None = None
    worker: str = ""
    pieces: list[Any] = field(default_factory=list)
    read: int = 0

    @property
    def id(self) -> str:
        return str(self.wire["id"])

    @property
    def ended(self) -> bool:
        return self.status not in ("IN_QUEUE", "IN_PROGRESS")

    def state(self) -> dict[str, Any]:
        """What /status shows."""
        state: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.worker:
            state["workerId"] = self.worker
        if self.output is not None:
            state["output"] = self.output
        if self.error is not None:
            state["error"] = self.error
        return state


class Refused(Exception):
    """What production answers with a 4xx, or is taken to. It is no `violation` of a worker to go on
    with a job while the order to stop has not been fetched, or may still be on its way: until the
    worker asks for the next orders."""

    def __init__(self, why: str, status: int = 400, violation: bool = True) -> None:
        super().__init__(why)
        self.status, self.violation = status, violation


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any = None
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A request, read whole. `flaw` says why its body is no JSON; `body` is then None."""

    kind: str
    path: str
    job: str
    worker: str
    authorization: str
    query: dict[str, str]
    size: int
    body: Any
    flaw: str

    @classmethod
    async def read(cls, kind: str, request: web.Request) -> Self:
        raw = await request.read()
        body, flaw = None, ""
        try:
            body = json.loads(raw, parse_constant=_no_number) if raw else None
        except (ValueError, RecursionError) as error:
            flaw = f"the body is no strict JSON: {error}"
        if kind == "job-done" and isinstance(body, dict) and body.get("status") == "IN_PROGRESS":
            kind = "progress"
        return cls(
            kind=kind,
            path=request.path,
            job=request.match_info.get("job", ""),
            worker=request.match_info.get("worker", ""),
            authorization=request.headers.get("Authorization", ""),
            query=dict(request.query),
            size=len(raw),
            body=body,
            flaw=flaw,
        )

    def posted(self, limit: int) -> dict[str, Any]:
        """The body, if production takes one like it."""
        if self.size > limit:
            raise Refused(f"{self.size} bytes are more than {limit}")
        if self.flaw:
            raise Refused(self.flaw)
        if not isinstance(self.body, dict):
            raise Refused("the body is no JSON object")
        if self.query.get("isStream") not in ("true", "false"):
            raise Refused("isStream is neither true nor false")
        return self.body


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")
