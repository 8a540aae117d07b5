"""Uploads a file to an S3 bucket and signs a link to it: AWS, R2, GCS, MinIO and compatible stores.

A store's responses are bounded in size and time: they can fail an upload, but never block it for
ever. Messages carry no secret, and nothing of the store's response but its error code.

No connection is kept between uploads, because sockets are dead after a worker was frozen. The link
is signed but not tested: where the credentials may only write, it answers 403.
"""

import contextlib
import functools
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from delivery.bucket import Bucket
from delivery.connections import GuardedConnections
from request.errors import Cancelled, DeliveryError

PART_BYTES = 8_000_000
"""Bytes. From this size on a file is uploaded in parts of this size, `THREADS` at a time."""
THREADS = 4
CONNECT_SECONDS = 10
READ_SECONDS = 30
ATTEMPTS = 3
PATIENCE_SECONDS = 120
SLOWEST_BYTES_PER_SECOND = 500_000
"""An upload may take `PATIENCE_SECONDS`, plus the time that its size needs at this rate."""
GRACE_SECONDS = 10
"""A stopped upload has this many seconds to clean up. Then its connections are cut."""
POLL_SECONDS = 0.1

_FAILED = "the upload to the S3 store failed:"
_ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


def upload(
    bucket: Bucket,
    path: Path,
    key_folder: str,
    content_type: str,
    cancelled: Callable[[], bool] = lambda: False,
) -> str:
    """Uploads the file to `<prefix>/<key_folder>/<uuid>.<ext>` and gives a presigned URL for it.

    Blocks until the object is there. An upload that fails or is cancelled leaves no object and no
    parts behind, as far as the store still answers and the credentials may remove.
    Raises `DeliveryError`, `Cancelled` once `cancelled()` is true, OSError for an unreadable file.
    """
    if cancelled():
        raise Cancelled
    folder = re.sub(r"[^A-Za-z0-9._-]", "_", key_folder)[:64].lstrip(".") or "job"
    names = (bucket.prefix.rstrip("/"), folder, f"{uuid.uuid4().hex}{path.suffix}")
    target = {"Bucket": bucket.name, "Key": "/".join(filter(None, names))}
    headers = {
        "ContentType": content_type,
        "ContentDisposition": f'inline; filename="{folder}{path.suffix}"',
    }
    seconds = PATIENCE_SECONDS + path.stat().st_size / SLOWEST_BYTES_PER_SECOND
    connections = GuardedConnections(bucket.public_only)
    try:
        with (
            contextlib.closing(connections),
            contextlib.closing(_client(bucket, connections)) as client,
        ):
            _send(client, path, target, headers, connections, cancelled, seconds)
            life = bucket.url_ttl_seconds
            return str(client.generate_presigned_url("get_object", target, ExpiresIn=life))
    except _failures() as error:
        reason = _reason(error)
        if connections.refused:
            reason = "its host is not on the public internet"
        elif connections.late:
            reason = "its answer does not end"
        raise DeliveryError(f"{_FAILED} {reason}") from error


_MAKING = threading.Lock()
"""Making a client in a session is not thread-safe. The clients themselves share nothing."""


@functools.cache
def _session() -> Any:
    """A shared session, which caches boto3's service descriptions: a client takes 3 ms, not 60."""
    import boto3

    return boto3.session.Session()


def _client(bucket: Bucket, connections: GuardedConnections) -> Any:
    from botocore.config import Config

    endpoint_url, style, region = bucket.address()
    config = Config(
        signature_version="s3v4",
        # R2, GCS and others refuse boto3's default, which is a CRC32 trailer.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=THREADS,
        s3={"addressing_style": style},
        ignore_configured_endpoint_urls=True,
        proxies={} if bucket.public_only else None,
    )
    with _MAKING:
        client = _session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region,
            aws_access_key_id=bucket.access_key_id,
            aws_secret_access_key=bucket.secret_access_key,
            config=config,
        )
    client.meta.events.register_first("needs-retry.s3", _stay_in_region)
    client.meta.events.register("after-call.s3.PutObject", _be_stored)
    connections.watch(client)
    return client


def _stay_in_region(response: Any, operation: Any, **_: Any) -> None:
    """Fails where boto3 would redirect to the bucket's region: the link would name the old one."""
    from botocore.exceptions import ClientError

    if response is None:
        return
    http, answer = response
    if http.status_code in (301, 302, 307) or answer.get("Error", {}).get("Code") in _ELSEWHERE:
        raise ClientError(answer, operation.name)


def _be_stored(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
    """Raises `KeyError` for a success without an ETag: then the server is no S3 store."""
    if http_response.status_code < 300 and "ETag" not in parsed:
        raise KeyError("ETag")


def _send(
    client: Any,
    path: Path,
    target: dict[str, str],
    headers: dict[str, str],
    connections: GuardedConnections,
    cancelled: Callable[[], bool],
    seconds: float,
) -> None:
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    config = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=THREADS,
        preferred_transfer_client="classic",
    )
    done = threading.Event()
    limit = time.monotonic() + seconds
    stopped: Exception | None = None
    with create_transfer_manager(client, config) as manager:
        end = SimpleNamespace(on_done=lambda **_: done.set())
        future = manager.upload(str(path), *target.values(), headers, [end])
        # boto3 takes an exception from its progress callback for a lost connection and retries. So
        # the transfer is stopped from outside.
        while not done.wait(POLL_SECONDS):
            late = time.monotonic() > limit
            if stopped and late:
                connections.cut()
            elif not stopped and (late or cancelled()):
                stopped = DeliveryError(f"{_FAILED} it took too long") if late else Cancelled()
                future.cancel()
            else:
                continue
            limit = time.monotonic() + GRACE_SECONDS
        try:
            future.result()
            if not isinstance(stopped, Cancelled):
                return
            client.delete_object(**target)  # the upload had finished before the cancellation
        except Exception as error:
            if stopped:
                raise stopped from error
            raise
        raise stopped


def _failures() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    # KeyError: a successful response without a field that S3 guarantees.
    return BotoCoreError, ClientError, ResponseParserError, KeyError


def _reason(error: Exception) -> str:
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        return _refusal(error.response)
    reasons = {
        boto.SSLError: "no secure connection to it could be made",
        boto.ProxyConnectionError: "the proxy that leads to it cannot be reached",
        boto.ConnectTimeoutError: "connecting to it timed out",
        boto.ReadTimeoutError: "it did not answer in time",
        boto.EndpointConnectionError: "it cannot be reached",
        boto.HTTPClientError: "the connection to it broke",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    return f"its answers are not those of an S3 store ({type(error).__name__})"


def _refusal(answer: dict[str, Any]) -> str:
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status in (301, 302, 307) or code in _ELSEWHERE:
        reason = "the bucket is in another region or behind another endpoint"
    elif code == "RequestTimeTooSkewed":
        reason = "the clocks of the store and of the worker differ"
    elif status in (401, 403):
        reason = "it refused the credentials, or they may not write to this bucket"
    elif status == 404:
        reason = "it has no such bucket"
    elif status == 429 or status >= 500:
        reason = "it is overloaded or out of order"
    else:
        reason = "it refused the file"
    return f"{reason} ({code if re.fullmatch('[A-Za-z]{3,60}', code) else f'HTTP {status}'})"
