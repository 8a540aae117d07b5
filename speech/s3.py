"""Audio into an S3 bucket, and a link to it back: AWS, R2, GCS, MinIO and what is like them.

A job may bring a bucket of its own, so an endpoint can be hostile: it is reached on the public
internet only, which is checked on the open connection and not only when its name is looked up; its
answers end an upload at worst with a `DeliveryError`; and no message carries a secret or its words.

Nothing is kept between uploads: a worker can be frozen in between, and its sockets are dead then.
A link is signed and not tried: with credentials that may only write, it answers 403.
"""

import contextlib
import ipaddress
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from speech.errors import Cancelled, DeliveryError, RequestError

MULTIPART_BYTES = 8_000_000
"""Larger files go in parts of this size, at most `THREADS` at a time."""
THREADS = 4
CONNECT_SECONDS = 10
READ_SECONDS = 30
ATTEMPTS = 3
SLOWEST_BYTES_PER_SECOND = 500_000
PATIENCE_SECONDS = 120
"""An upload may take this long, and the time that its size needs at the slowest rate."""
GRACE_SECONDS = 10
"""A stopped upload may use this long to clean up; then its connections are cut."""
POLL_SECONDS = 0.1

_HOST = re.compile(r"\[[0-9a-fA-F:.]+\]|(?=.{1,253}$)(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
_REGION_IN_HOST = re.compile(r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z]{2,}(?:-[a-z]+)+-\d+)\.")
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_NO_REGIONS = (".r2.cloudflarestorage.com", ".googleapis.com")
_TRANSLATED = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "2002::/16", "2001::/32")]


class BucketError(ValueError):
    """A bucket's `field` cannot be as it is; the text never repeats what was given."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where uploads go and with whose rights. Raises `BucketError`.

    Without `endpoint_url` it is AWS. Without `region` it is the one that the endpoint's name tells,
    "auto" where there are none, else us-east-1. `addressing` says whether the bucket's name stands
    in the link's path or before its host; "auto" is the host at AWS and the path elsewhere.
    An endpoint that names the bucket already, as consoles show it, is understood.
    """

    endpoint_url: str | None
    access_key_id: str
    secret_access_key: str = field(repr=False)
    name: str
    region: str | None = None
    prefix: str = ""
    url_ttl_seconds: int = 3600
    addressing: Literal["auto", "path", "virtual"] = "auto"
    public_only: bool = False
    """Connect to no private address and through no proxy."""

    def __post_init__(self) -> None:
        if self.endpoint_url is not None:
            _check_endpoint(self.endpoint_url)
        for name in ("access_key_id", "secret_access_key"):
            _check(name, getattr(self, name), "[!-~]{1,256}", "1 to 256 visible ASCII characters")
        _check(
            "name",
            self.name,
            r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]",
            "3 to 63 letters, digits, dots, hyphens and underscores",
        )
        if self.region is not None:
            _check("region", self.region, "[A-Za-z0-9-]{1,40}", "letters, digits and hyphens")
        _check(
            "prefix",
            self.prefix,
            r"(?=.{0,200}$)((?!\.\.?(/|$))[A-Za-z0-9._=-]+(/|$))*",
            "at most 200 characters: names of letters, digits, `.`, `_`, `=` and `-` with `/` "
            "between, none of them `.` or `..`",
        )
        ttl: object = self.url_ttl_seconds
        if type(ttl) is not int or not 1 <= ttl <= 604_800:
            raise BucketError("url_ttl_seconds", "must be a whole number from 1 to 604800")
        if self.addressing not in ("auto", "path", "virtual"):
            raise BucketError("addressing", "must be auto, path or virtual")

    @classmethod
    def from_job(
        cls, raw: object, *, url_ttl_seconds: int = 3600, allow_private: bool = False
    ) -> Self:
        """The bucket in a job's `s3Config`: accessId, accessSecret, bucketName, endpointUrl, and
        perhaps region and prefix. Looks the endpoint's name up, so it may block for seconds.

        `allow_private` also takes http and endpoints that are not on the public internet.
        Raises `RequestError`.
        """
        if not isinstance(raw, dict):
            raise RequestError("s3Config: must be an object")
        given = {name: raw.get(key) for name, key in _JOB_FIELDS.items()}
        given["prefix"] = given["prefix"] or ""
        try:
            if given["endpoint_url"] is None:
                raise BucketError("endpoint_url", "must be given")
            bucket = cls(**given, url_ttl_seconds=url_ttl_seconds, public_only=not allow_private)
            if not allow_private:
                _check_public(str(bucket.endpoint_url))
        except BucketError as error:
            key = _JOB_FIELDS.get(error.field, error.field)
            raise RequestError(f"s3Config.{key}: {error.problem}") from None
        return bucket


_JOB_FIELDS = {
    "endpoint_url": "endpointUrl",
    "access_key_id": "accessId",
    "secret_access_key": "accessSecret",
    "name": "bucketName",
    "region": "region",
    "prefix": "prefix",
}


def _check(field: str, value: object, pattern: str, allowed: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise BucketError(field, f"must be {allowed}")


def _check_endpoint(url: object) -> None:
    problem = "must be an http or https URL with a host, such as https://s3.example.com"
    try:
        parts = urlsplit(url if isinstance(url, str) and len(url) <= 500 else "")
        host, port = parts.netloc.rpartition("@")[2], parts.port
    except ValueError:
        raise BucketError("endpoint_url", problem) from None
    if "@" in parts.netloc:
        raise BucketError("endpoint_url", "must not carry credentials")
    name = host if port is None else host.removesuffix(f":{port}")
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(name) or port == 0:
        raise BucketError("endpoint_url", problem)
    if "?" in str(url) or "#" in str(url) or not re.fullmatch(r"[A-Za-z0-9._/-]*", parts.path):
        raise BucketError("endpoint_url", "must end with its host or a plain path")


def _check_public(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise BucketError("endpoint_url", "must be an https URL")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except OSError:
        raise BucketError("endpoint_url", "the host's name is not known") from None
    if not all(_is_public(str(each[4][0])) for each in found):
        raise BucketError("endpoint_url", "must be a host on the public internet")


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    special = ip.is_multicast or ip.is_reserved or any(ip in net for net in _TRANSLATED)
    return ip.is_global and not special


def upload(
    bucket: Bucket,
    path: Path,
    key_folder: str,
    content_type: str,
    cancelled: Callable[[], bool] = lambda: False,
) -> str:
    """Puts the file under `<prefix>/<key_folder>/<uuid>.<ext>` and gives a link for reading it.

    Blocks until the object is there, for as long as `PATIENCE_SECONDS` allows. What does not end
    well leaves no object and no parts behind, as long as the store still answers.
    Raises `DeliveryError`, `Cancelled` soon after `cancelled()` is true, and OSError where the file
    cannot be read.
    """
    size = path.stat().st_size
    folder = re.sub(r"[^A-Za-z0-9._-]", "_", key_folder)[:64].lstrip(".") or "job"
    names = (bucket.prefix.rstrip("/"), folder, f"{uuid.uuid4().hex}{path.suffix}")
    target = {"Bucket": bucket.name, "Key": "/".join(filter(None, names))}
    headers = {
        "ContentType": content_type,
        "ContentDisposition": f'inline; filename="{folder}{path.suffix}"',
    }
    lines = _Lines(bucket.public_only)
    try:
        with contextlib.closing(lines), contextlib.closing(_client(bucket, lines)) as client:
            _send(client, lines, path, target, headers, _Stop(size, cancelled))
            ttl = bucket.url_ttl_seconds
            return str(client.generate_presigned_url("get_object", target, ExpiresIn=ttl))
    except _Late as error:
        raise DeliveryError(f"{_FAILED} it took too long") from error
    except _failures() as error:
        reason = "its host is not on the public internet" if lines.refused else _reason(error)
        raise DeliveryError(f"{_FAILED} {reason}") from error
