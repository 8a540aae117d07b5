"""The loopback RunPod: it plays both sides, and refuses and books what production refuses."""

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.runpod_api import RunPodApi
from tests.runpod_wire import ENDPOINT, KEY, PIECE_LIMIT, RUN_LIMIT, RUNSYNC_LIMIT


@pytest.fixture
def api() -> Iterator[RunPodApi]:
    with RunPodApi(poll_sec=0.2) as api:
        yield api
        assert api.violations == []


def call(
    api: RunPodApi, method: str, path: str, body: Any = None, key: str = KEY
) -> tuple[int, Any]:
    """Status and answer of one call. A body of bytes is sent as it is."""
    connection = http.client.HTTPConnection(api.url.split("/")[2], timeout=60)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, f"/v2/{ENDPOINT}/{path}", data, {"Authorization": key})
    reply = connection.getresponse()
    answer = reply.read()
    connection.close()
    is_json = reply.headers.get_content_type() == "application/json"
    return reply.status, json.loads(answer) if is_json else None


def take(api: RunPodApi, worker: str = "w") -> str:
    """The id of the job that a worker is given."""
    status, job = call(api, "GET", f"job-take/{worker}?gpu=none&job_in_progress=0")
    assert status == 200
    return str(job["id"])


def done(api: RunPodApi, job_id: str, body: Any, worker: str = "w") -> int:
    return call(api, "POST", f"job-done/{worker}/{job_id}?gpu=none&isStream=false", body)[0]


def piece(api: RunPodApi, job_id: str, body: Any) -> int:
    return call(api, "POST", f"job-stream/w/{job_id}?gpu=none&isStream=false", body)[0]


def sized(size: int) -> bytes:
    """A result of exactly so many bytes."""
    return b'{"output":"' + b"a" * (size - 13) + b'"}'


def test_runpods_own_client_sees_a_job_from_the_queue_to_its_answer(api: RunPodApi) -> None:
    endpoint = api.endpoint()
    job = endpoint.run({"input": {"text": "x"}, "policy": {"ttl": 60_000}})
    assert job.status() == "IN_QUEUE"
    _, wire = call(api, "GET", "job-take/w?gpu=none&job_in_progress=0")
    assert wire == {"id": job.job_id, "input": {"text": "x"}, "policy": {"ttl": 60_000}}
    assert job.status() == "IN_PROGRESS"
    assert endpoint.health()["jobs"]["inProgress"] == 1
    assert done(api, job.job_id, {"output": {"answer": 42}}) == 200
    assert job.status() == "COMPLETED"
    assert job.output() == {"answer": 42}
    assert endpoint.health()["jobs"] == {
        "inQueue": 0, "inProgress": 0, "completed": 1, "failed": 0
    }  # fmt: skip


def test_runsync_gives_the_answer_or_after_its_wait_the_state(api: RunPodApi) -> None:
    status, state = call(api, "POST", "runsync?wait=100", {"input": {}}, f"Bearer {KEY}")
    assert (status, state["status"]) == (200, "IN_QUEUE")
    api.cancel(state["id"])


def test_an_error_fails_the_job_and_the_output_beside_it_stays(api: RunPodApi) -> None:
    job_id = api.submit({})
    take(api)
    assert done(api, job_id, {"error": "no", "output": {"kind": 1}}) == 200
    job = api.wait(job_id)
    assert (job.status, job.error, job.output) == ("FAILED", "no", {"kind": 1})


def test_a_batch_take_gives_as_many_as_wished_and_then_what_is_left(api: RunPodApi) -> None:
    ids = [api.submit({"n": n}) for n in range(5)]
    path = "job-take-batch/w?gpu=none&batch_size=3&job_in_progress=0"
    first, second, third = (call(api, "GET", path) for _ in range(3))
    assert [job["id"] for job in first[1]] == ids[:3]
    assert [job["id"] for job in second[1]] == ids[3:]
    assert third == (204, None)
    assert [event.jobs for event in api.seen("job-take-batch")] == [(*ids[:3],), (*ids[3:],), ()]


def test_a_poll_is_held_open_and_released(api: RunPodApi) -> None:
    before = time.monotonic()
    assert call(api, "GET", "job-take/w?gpu=none")[0] == 204
    assert time.monotonic() - before >= 0.2
    api.poll_sec = 60
    api.release("w")
    assert call(api, "GET", "job-take/w?gpu=none")[0] == 204
    assert call(api, "GET", "job-stop/w?gpu=none")[0] == 204


def test_a_job_that_is_cancelled_in_the_queue_is_never_given_away(api: RunPodApi) -> None:
    first, second = api.submit({}), api.submit({})
    assert call(api, "POST", f"cancel/{first}", key=f"Bearer {KEY}")[1]["status"] == "CANCELLED"
    assert take(api) == second
    assert call(api, "GET", "job-stop/w?gpu=none")[0] == 204
    assert api.endpoint().purge_queue() == {"removed": 0, "status": "completed"}


def test_a_job_that_is_cancelled_at_work_is_stopped_there_once(api: RunPodApi) -> None:
    job_id = api.submit({})
    take(api)
    api.cancel(job_id)
    assert call(api, "GET", "job-stop/other?gpu=none")[0] == 204
    assert piece(api, job_id, {"output": "the worker does not know yet"}) == 400
    assert api.violations == []
    assert call(api, "GET", "job-stop/w?gpu=none") == (200, {"jobsToStop": [job_id]})
    assert piece(api, job_id, {"output": "this was sent before that was read"}) == 400
    assert api.violations == []
    assert call(api, "GET", "job-stop/w?gpu=none")[0] == 204
    assert piece(api, job_id, {"output": "the worker knows"}) == 400
    assert api.excuse(job_id) == [f"job-stream {job_id}: the job is CANCELLED already"]


def test_a_job_past_its_time_is_stopped(api: RunPodApi) -> None:
    job_id = api.submit({}, policy={"executionTimeout": 50})
    take(api)
    assert api.wait(job_id).status == "TIMED_OUT"
    assert call(api, "GET", "job-stop/w?gpu=none") == (200, {"jobsToStop": [job_id]})


def test_a_job_past_its_ttl_is_not_given_away(api: RunPodApi) -> None:
    job_id = api.submit({}, policy={"ttl": 50})
    assert api.wait(job_id).status == "TIMED_OUT"
    assert call(api, "GET", "job-take/w?gpu=none")[0] == 204


def test_pieces_come_once_and_in_order(api: RunPodApi) -> None:
    job_id = api.submit({})
    take(api)
    seen = []
    for index in range(4):
        assert piece(api, job_id, {"output": index}) == 200
        if index % 2:
            seen.append(call(api, "GET", f"stream/{job_id}", key=f"Bearer {KEY}")[1])
    done(api, job_id, {"output": []})
    seen.append(call(api, "GET", f"stream/{job_id}", key=f"Bearer {KEY}")[1])
    assert seen == [
        {"status": "IN_PROGRESS", "stream": [{"output": 0}, {"output": 1}]},
        {"status": "IN_PROGRESS", "stream": [{"output": 2}, {"output": 3}]},
        {"status": "COMPLETED", "stream": []},
    ]


def test_progress_shows_in_the_status_until_the_result_is_there(api: RunPodApi) -> None:
    job_id = api.submit({})
    take(api)
    assert done(api, job_id, {"status": "IN_PROGRESS", "output": {"chunk": 1}}) == 200
    state = call(api, "GET", f"status/{job_id}", key=f"Bearer {KEY}")[1]
    assert (state["status"], state["output"]) == ("IN_PROGRESS", {"chunk": 1})
    done(api, job_id, {"output": "whole"})
    assert done(api, job_id, {"status": "IN_PROGRESS", "output": {"chunk": 2}}) == 400
    assert api.excuse("progress") == [f"progress {job_id}: the job is COMPLETED already"]
    assert api.jobs[job_id].output == "whole"
    assert [event.status for event in api.seen("progress", job_id)] == [200, 400]


@pytest.mark.parametrize(("sync", "limit"), [(False, RUN_LIMIT), (True, RUNSYNC_LIMIT)])
def test_a_result_above_the_limit_is_refused(api: RunPodApi, sync: bool, limit: int) -> None:
    job_id = api.submit({}, sync=sync)
    take(api)
    assert done(api, job_id, sized(limit + 1)) == 400
    assert api.excuse(job_id) == [f"job-done {job_id}: {limit + 1} bytes are more than {limit}"]
    assert api.jobs[job_id].status == "IN_PROGRESS"
    assert done(api, job_id, sized(limit)) == 200
    assert api.jobs[job_id].status == "COMPLETED"


def test_a_piece_above_the_limit_is_refused(api: RunPodApi) -> None:
    job_id = api.submit({})
    take(api)
    assert piece(api, job_id, sized(PIECE_LIMIT)) == 200
    assert piece(api, job_id, sized(PIECE_LIMIT + 1)) == 400
    api.excuse("1000001 bytes are more than 1000000")
    assert len(api.jobs[job_id].pieces) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"output": NaN}', "NaN is no number"),
        (b'{"output": [-Infinity]}', "-Infinity is no number"),
        (b'{"output": ', "no strict JSON"),
        (b'{"output": "\xff"}', "no strict JSON"),
        (b"[1]", "no JSON object"),
        (b"", "no JSON object"),
    ],
)
def test_what_is_no_strict_json_object_is_refused(api: RunPodApi, body: bytes, why: str) -> None:
    job_id = api.submit({})
    take(api)
    assert done(api, job_id, body) == 400
    assert piece(api, job_id, body) == 400
    assert len(api.excuse(why)) == 2
    assert api.jobs[job_id].status == "IN_PROGRESS"


@pytest.mark.parametrize("error", [{"code": 1}, ["a"], 3, None])
def test_an_error_that_is_no_string_is_lost(api: RunPodApi, error: Any) -> None:
    job_id = api.submit({})
    take(api)
    assert done(api, job_id, {"error": error}) == 200
    assert (api.jobs[job_id].status, api.jobs[job_id].output) == ("COMPLETED", None)
    api.excuse("the error is no string")


def test_an_empty_result_is_a_violation(api: RunPodApi) -> None:
    job_id = api.submit({})
    take(api)
    assert done(api, job_id, {}) == 200
    api.excuse("neither an output nor an error")


def test_posts_about_jobs_that_are_not_at_work_are_refused(api: RunPodApi) -> None:
    twice, stopped, queued = (api.submit({}) for _ in range(3))
    take(api)
    take(api)
    assert done(api, twice, {"output": 1}) == 200
    api.cancel(stopped)
    assert [call(api, "GET", "job-stop/w?gpu=none")[0] for _ in range(2)] == [200, 204]
    for job_id, why in {
        twice: "the job is COMPLETED already",
        stopped: "the job is CANCELLED already",
        queued: "the job is IN_QUEUE already",
        "nobody": "there is no such job",
    }.items():
        assert done(api, job_id, {"output": 2}) == (404 if job_id == "nobody" else 400)
        assert piece(api, job_id, {"output": 2}) in (400, 404)
        assert api.excuse(job_id) == [
            f"{kind} {job_id}: {why}" for kind in ("job-done", "job-stream")
        ]
    assert api.jobs[twice].output == 1


def test_another_workers_job_is_none_of_its_business(api: RunPodApi) -> None:
    job_id = api.submit({})
    take(api, "one")
    assert done(api, job_id, {"output": 1}, "two") == 400
    api.excuse("was given to one, not to two")


def test_a_worker_needs_its_bare_key_and_a_client_a_bearer(api: RunPodApi) -> None:
    for path in ("job-take/w", "job-stop/w", "ping/w"):
        assert call(api, "GET", path, key=f"Bearer {KEY}")[0] == 401
    assert len(api.excuse("Authorization")) == 3
    assert call(api, "GET", "health", key=KEY)[0] == 401


def test_an_address_that_runpod_does_not_have_is_a_violation(api: RunPodApi) -> None:
    assert call(api, "POST", "job-dnoe/w/j", {})[0] == 404
    api.excuse("unknown : there is no such address: /v2/loopback/job-dnoe/w/j")


def test_calls_fail_as_they_are_told_to_and_change_nothing(api: RunPodApi) -> None:
    first, second = api.submit({}), api.submit({})
    take(api)
    take(api)
    api.fail("job-done", 503, 0, job_id=second)
    assert done(api, first, {"output": 1}) == 200
    assert done(api, second, {"output": 2}) == 503
    with pytest.raises(http.client.RemoteDisconnected):
        done(api, second, {"output": 2})
    assert api.jobs[second].status == "IN_PROGRESS"
    assert done(api, second, {"output": 2}) == 200
    assert [event.status for event in api.seen("job-done", second)] == [503, 0, 200]


def test_calls_that_are_held_wait_for_the_end_of_it(api: RunPodApi) -> None:
    path = "ping/w?job_id=a,b&runpod_version=1"
    with ThreadPoolExecutor(1) as pool:
        with api.holding("ping"):
            answer = pool.submit(call, api, "GET", path)
            api.until(lambda: api.held["ping"])
            assert api.seen("ping") == []
        assert answer.result()[0] == 200
    assert not api.held["ping"]
    (event,) = api.seen("ping", "b")
    assert (event.jobs, event.worker) == (("a", "b"), "w")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("run", b'{"input": {}, "more": NaN}', 400),
        ("run", b"[]", 400),
        ("run", b"{}", 400),
        ("run", b'{"input": "' + b"a" * RUN_LIMIT + b'"}', 413),
    ],
)
def test_a_clients_bad_request_is_refused_and_is_no_violation(
    api: RunPodApi, path: str, body: bytes, status: int
) -> None:
    assert call(api, "POST", path, body, f"Bearer {KEY}")[0] == status
    assert api.jobs == {}


def test_a_poll_that_was_broken_off_takes_no_job_along(api: RunPodApi) -> None:
    api.poll_sec = 60
    connection = http.client.HTTPConnection(api.url.split("/")[2])
    path = f"/v2/{ENDPOINT}/job-take/gone?gpu=none"
    connection.request("GET", path, headers={"Authorization": KEY})
    api.until(lambda: api.polls["gone"])
    connection.close()
    api.until(lambda: not api.polls["gone"])
    job_id = api.submit({})
    assert take(api) == job_id
