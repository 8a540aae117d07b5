"""An S3 bucket: its endpoint, credentials and settings, checked.

A job may bring its own bucket, so every field is hostile until it is checked (SSRF). Messages name
the field and what is allowed. They never repeat the value, which may be a secret in a wrong field.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from request.errors import RequestError

_AUTHORITY = re.compile(
    r"(\[[0-9a-fA-F:.]+\]|(?!.{254})[A-Za-z0-9][A-Za-z0-9-]{0,62}(\.[A-Za-z0-9-]{1,63})*)(:\d{1,5})?"
)
_REGION_IN_HOST = re.compile(r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z]{2,}(?:-[a-z]+)+-\d+)\.")
_BUCKET_IN_HOST = re.compile(
    r"(.+?)\.(?:s3[.-].+|storage\.googleapis\.com|[^.]+\.(?:digitaloceanspaces|linodeobjects)\.com"
    r"|[0-9a-f]{32}(?:\.[a-z]+)?\.r2\.cloudflarestorage\.com)"
)
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_NO_REGIONS = (".r2.cloudflarestorage.com", ".googleapis.com")
# IPv6 ranges that embed an IPv4 address (NAT64, 6to4, Teredo), and the old site-local range.
_INSIDE = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "2002::/16", "2001::/32", "fec0::/10")))


class BucketError(ValueError):
    """A bucket's `field` has a value that is not allowed. The text never repeats that value."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


class Address(NamedTuple):
    """The settings of a bucket's client besides the keys. `endpoint_url` is None for AWS."""

    endpoint_url: str | None
    style: Literal["path", "virtual"]
    region: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket for uploads, with its credentials. Raises `BucketError`.

    `endpoint_url` None means AWS. `region` None means the region in the endpoint's host name, or
    "auto" for stores without regions, else us-east-1. Links are virtual-hosted at AWS and
    path-style elsewhere. An endpoint that already contains the bucket's name, as consoles show it,
    is accepted. `url_ttl_seconds` is the lifetime of a link.
    """

    endpoint_url: str | None
    access_key_id: str
    secret_access_key: str = field(repr=False)
    name: str
    region: str | None = None
    prefix: str = ""
    url_ttl_seconds: int = 3600
    public_only: bool = False
    """True for a job's bucket: no private address is dialled, and no proxy is used."""

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

    def address(self) -> Address:
        """The endpoint, addressing style and region for the client."""
        if self.endpoint_url is None:
            return Address(None, "virtual", self.region or "us-east-1")
        parts = urlsplit(self.endpoint_url)
        authority = parts.netloc.lower()
        own = _bucket_in_host(parts.hostname) == self.name
        if own:
            authority = authority[len(self.name) + 1 :]
        path = parts.path.rstrip("/")
        path = "" if path == f"/{self.name}" else path
        host = authority.partition(":")[0]
        told = _REGION_IN_HOST.search(host)
        region = told[1] if told else "auto" if host.endswith(_NO_REGIONS) else "us-east-1"
        style: Literal["path", "virtual"] = "virtual" if own or host.endswith(_AWS) else "path"
        return Address(f"{parts.scheme}://{authority}{path}", style, self.region or region)

    @classmethod
    def from_job(
        cls, raw: object, *, url_ttl_seconds: int = 3600, allow_private: bool = False
    ) -> Self:
        """Checks a job's `s3Config`. Raises `RequestError`.

        It has accessId, accessSecret, bucketName, endpointUrl, and optionally region and prefix.
        The endpoint's name is resolved, so this may block for seconds. `allow_private` also accepts
        http and endpoints that are not on the public internet.
        """
        if not isinstance(raw, dict):
            raise RequestError("must be an object", "s3Config")
        given: dict[str, Any] = {name: raw.get(key) for name, key in _JOB_FIELDS.items()}
        given |= {"region": given["region"] or None, "prefix": given["prefix"] or ""}
        try:
            if given["endpoint_url"] is None:
                raise BucketError("endpoint_url", "must be given")
            bucket = cls(**given, url_ttl_seconds=url_ttl_seconds, public_only=not allow_private)
            if not allow_private:
                _check_public(str(bucket.endpoint_url))
        except BucketError as error:
            key = _JOB_FIELDS.get(error.field, error.field)
            raise RequestError(error.problem, f"s3Config.{key}") from None
        return bucket


def bucket_in(endpoint_url: str) -> str | None:
    """The bucket that an endpoint names, as consoles show it: before the host, or as the path."""
    try:
        parts = urlsplit(endpoint_url)
        return _bucket_in_host(parts.hostname) or _single(parts.path.strip("/").split("/"))
    except ValueError:
        return None


def _bucket_in_host(host: str | None) -> str | None:
    found = _BUCKET_IN_HOST.fullmatch(host or "")
    return found[1] if found else None


def _single(names: list[str]) -> str | None:
    return names[0] or None if len(names) == 1 else None


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
    _check("endpoint_url", url, "[!-~]{1,500}", "a URL of at most 500 visible ASCII characters")
    allowed = "must be an http or https URL with a host, such as https://s3.example.com"
    try:
        parts = urlsplit(str(url))
        port = parts.port
    except ValueError:
        raise BucketError("endpoint_url", allowed) from None
    if "@" in parts.netloc:
        raise BucketError("endpoint_url", "must not carry credentials")
    if parts.scheme not in ("http", "https") or not _AUTHORITY.fullmatch(parts.netloc) or port == 0:
        raise BucketError("endpoint_url", allowed)
    if not re.fullmatch("[A-Za-z0-9._/-]*", parts.path) or set("?#") & set(str(url)):
        raise BucketError("endpoint_url", "must end with its host or a plain path")


def _check_public(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise BucketError("endpoint_url", "must be an https URL")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except OSError:
        raise BucketError("endpoint_url", "the host's name is not known") from None
    if not all(is_public(str(each[4][0])) for each in found):
        raise BucketError("endpoint_url", "must be a host on the public internet")


def is_public(address: str) -> bool:
    """Whether a numeric IP address is a unicast address on the public internet."""
    ip = ipaddress.ip_address(address)
    special = ip.is_multicast or ip.is_reserved or any(ip in net for net in _INSIDE)
    return ip.is_global and not special
