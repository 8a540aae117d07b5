"""A file reaches a bucket and a link reads it back, or the caller learns why not.

Signatures and expiry are those of a real store that checks them; AWS's names are moto's.
"""

import asyncio
import functools
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws

from delivery import connections, s3
from delivery.bucket import Bucket, BucketError
from delivery.connections import ANSWER_BYTES
from request.errors import Cancelled, DeliveryError, RequestError
from tests.bad_network import (
    answering,
    dripping,
    mute,
    recording,
    resetting,
    serving,
    slowed,
    stalling,
)
from tests.swift import ACCESS_KEY, SECRET_KEY
from tools.demo import reserved_port

JOB = {
    "accessId": "someone",
    "accessSecret": "hush-hush",
    "bucketName": "audio",
    "endpointUrl": "https://1.1.1.1",
}


@pytest.fixture(scope="module")
def store(swift_store: dict[str, str]) -> Bucket:
    endpoint = swift_store["S3_ENDPOINT_URL"]
    return Bucket(endpoint, ACCESS_KEY, SECRET_KEY, "audio", prefix="tts/out")


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before, request.node.name


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.mp3"
    path.write_bytes(b"sound of speech")
    return path


@pytest.fixture
def long_speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(Random(1).randbytes(2 * s3.PART_BYTES + 4_321))
    return path


@functools.cache
def client(bucket: Bucket) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=bucket.access_key_id,
        aws_secret_access_key=bucket.secret_access_key,
    )


def contents(bucket: Bucket) -> set[str]:
    """The keys in the bucket, and `?` for each upload whose parts wait for their end."""
    listed = client(bucket).list_objects_v2(Bucket=bucket.name).get("Contents", [])
    waiting = client(bucket).list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    return {each["Key"] for each in listed} | {"?" + each["Key"] for each in waiting}


def get(url: str) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def at(port: int, **changes: Any) -> Bucket:
    bucket = Bucket(f"http://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, "audio")
    return replace(bucket, **changes)


def failure(bucket: Bucket, path: Path) -> str:
    with pytest.raises(DeliveryError) as caught:
        s3.upload(bucket, path, "session", "audio/mpeg")
    message = str(caught.value)
    assert message.startswith("the upload to the S3 store failed: ")
    for secret in (bucket.access_key_id, bucket.secret_access_key, str(path.parent), "127.0.0.1"):
        assert secret not in message
    return message.removeprefix("the upload to the S3 store failed: ")


def port_of(bucket: Bucket) -> int:
    return int(str(bucket.endpoint_url).rpartition(":")[2])


# A store that checks signatures


def test_a_link_gives_the_file_with_its_type_and_a_name(store: Bucket, speech: Path) -> None:
    before = contents(store)
    url = s3.upload(store, speech, "session-1", "audio/mpeg")
    (key,) = contents(store) - before
    assert re.fullmatch(r"tts/out/session-1/[0-9a-f]{32}\.mp3", key)
    assert url.startswith(f"{store.endpoint_url}/audio/{key}?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    status, body, head = get(url)
    assert (status, body) == (200, b"sound of speech")
    assert head["Content-Type"] == "audio/mpeg"
    assert head["Content-Disposition"] == 'inline; filename="session-1.mp3"'


def test_a_link_that_was_tampered_with_is_refused(store: Bucket, speech: Path) -> None:
    url = s3.upload(store, speech, "a", "audio/mpeg")
    other = s3.upload(store, speech, "b", "audio/mpeg")
    signature = url.rpartition("=")[2]
    tampered = (
        url.replace(signature, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"),
        other.partition("?")[0] + "?" + url.partition("?")[2],
    )
    assert [get(each)[0] for each in (url, other, *tampered)] == [200, 200, 403, 403, 403]


def test_a_link_ends_with_its_time(store: Bucket, speech: Path) -> None:
    url = s3.upload(replace(store, url_ttl_seconds=1), speech, "s", "audio/mpeg")
    assert "X-Amz-Expires=1&" in url
    deadline = time.monotonic() + 60
    while (answer := get(url))[0] != 403:
        assert answer[:2] == (200, b"sound of speech")
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert b"expired" in answer[1]


def test_a_long_file_goes_in_parts_and_comes_back_whole(store: Bucket, long_speech: Path) -> None:
    before = contents(store)
    url = s3.upload(store, long_speech, "long", "audio/wav")
    (key,) = contents(store) - before
    head = client(store).head_object(Bucket="audio", Key=key)
    assert re.fullmatch(r'"[0-9a-f]{32}-3"', head["ETag"])
    status, body, heads = get(url)
    assert status == 200
    assert body == long_speech.read_bytes()
    assert heads["Content-Type"] == "audio/wav"


@pytest.mark.parametrize(("size", "parts"), [(-1, False), (0, True)])
def test_parts_begin_above_8_mb(store: Bucket, tmp_path: Path, size: int, parts: bool) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(bytes(s3.PART_BYTES + size))
    before = contents(store)
    s3.upload(store, path, "edge", "audio/wav")
    (key,) = contents(store) - before
    assert ("-" in client(store).head_object(Bucket="audio", Key=key)["ETag"]) is parts


@pytest.mark.parametrize(
    "session", ["../../up", "..", "/etc/passwd", "a/../../b", "", "\0\r\nX: y", "x" * 500, "ü?#%2e"]
)
def test_no_session_leads_out_of_the_prefix(store: Bucket, speech: Path, session: str) -> None:
    before = contents(store)
    url = s3.upload(store, speech, session, "audio/mpeg")
    (key,) = contents(store) - before
    assert re.fullmatch(r"tts/out/(?!\.)[A-Za-z0-9._-]{1,64}/[0-9a-f]{32}\.mp3", key)
    assert get(url)[:2] == (200, b"sound of speech")


def test_without_a_prefix_the_key_begins_with_the_session(store: Bucket, speech: Path) -> None:
    before = contents(store)
    s3.upload(replace(store, prefix=""), speech, "bare", "audio/mpeg")
    (key,) = contents(store) - before
    assert re.fullmatch(r"bare/[0-9a-f]{32}\.mp3", key)


def test_a_wrong_secret_is_named_by_kind(store: Bucket, speech: Path) -> None:
    reason = (
        "it refused the credentials, or they may not write to this bucket (SignatureDoesNotMatch)"
    )
    assert failure(replace(store, secret_access_key="guessed"), speech) == reason
    assert failure(replace(store, access_key_id="test:nobody"), speech) == reason


def test_a_missing_bucket_is_named_by_kind(store: Bucket, speech: Path, long_speech: Path) -> None:
    missing = replace(store, name="nowhere")
    assert failure(missing, speech) == "it has no such bucket (NoSuchBucket)"
    assert failure(missing, long_speech) == "it has no such bucket (NoSuchBucket)"


@pytest.mark.parametrize("after", [3_000_000, 100_000])
def test_a_reset_half_way_leaves_nothing_behind(
    store: Bucket, long_speech: Path, after: int
) -> None:
    before = contents(store)
    with serving(resetting(port_of(store), after)) as port:
        assert failure(at(port), long_speech) == "the connection to it broke"
    assert contents(store) == before


def test_a_reset_of_a_short_file_leaves_nothing_behind(store: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(bytes(s3.PART_BYTES - 1))
    before = contents(store)
    with serving(resetting(port_of(store), 3_000_000)) as port:
        assert failure(at(port), path) == "the connection to it broke"
    assert contents(store) == before


def test_one_reset_is_survived(store: Bucket, long_speech: Path) -> None:
    way, count = resetting(port_of(store), 3_000_000), iter(range(100))
    good = stalling(port_of(store), 10**9)

    async def once(*line: Any) -> None:
        await (way if next(count) == 1 else good)(*line)

    with serving(once) as port:
        url = s3.upload(at(port), long_speech, "again", "audio/wav")
        assert get(url)[1] == long_speech.read_bytes()


@pytest.mark.clock
@pytest.mark.parametrize("size", [5 * s3.PART_BYTES, 3_000_000])
def test_a_cancelled_upload_stops_and_leaves_nothing_behind(
    store: Bucket, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(bytes(size))
    before = contents(store)
    began = time.monotonic()
    with serving(slowed(port_of(store))) as port, pytest.raises(Cancelled):
        s3.upload(at(port), path, "s", "audio/wav", lambda: time.monotonic() > began + 0.5)
    assert contents(store) == before


@pytest.mark.clock
def test_a_cancelled_upload_that_hangs_is_cut_off_and_leaves_nothing_behind(
    store: Bucket, long_speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(s3, "READ_SECONDS", 10_000)
    before = contents(store)
    began = time.monotonic()
    with serving(stalling(port_of(store), 3_000_000)) as port, pytest.raises(Cancelled):
        s3.upload(at(port), long_speech, "s", "audio/wav", lambda: time.monotonic() > began + 1)
    assert contents(store) == before


def test_what_is_cancelled_already_is_not_begun(store: Bucket, speech: Path) -> None:
    before = contents(store)
    with pytest.raises(Cancelled):
        s3.upload(store, speech, "s", "audio/mpeg", lambda: True)
    assert contents(store) == before


def test_many_uploads_at_once(store: Bucket, tmp_path: Path) -> None:
    urls: dict[int, str] = {}

    def one(number: int) -> None:
        path = tmp_path / f"{number}.wav"
        path.write_bytes(b"%d" % number)
        urls[number] = s3.upload(store, path, "many", "audio/wav")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: get(url)[1] for n, url in urls.items()} == {n: b"%d" % n for n in range(8)}


# Networks and stores that fail


def test_a_store_that_says_nothing_times_out(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "READ_SECONDS", 0.2)
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    with serving(mute) as port:
        assert failure(at(port), speech) == "it did not answer in time"


def test_a_store_that_never_finishes_is_cut_off(
    speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(s3, "GRACE_SECONDS", 0.2)
    with serving(dripping) as port:
        assert failure(at(port), speech) == "it took too long"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS for 127.0.0.1, and the certificate that a client has to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path, both = tmp_path / "certificate.pem", tmp_path / "server.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    both.write_bytes(secret + path.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, path


def test_a_store_that_never_finishes_is_cut_off_under_tls_too(
    speech: Path, monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, Path]
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(s3, "GRACE_SECONDS", 0.2)
    context, certificate = tls
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with serving(dripping, context) as port:
        bucket = at(port, endpoint_url=f"https://127.0.0.1:{port}")
        assert failure(bucket, speech) == "it took too long"


def test_a_certificate_that_nobody_vouches_for_is_refused(
    speech: Path, tls: tuple[ssl.SSLContext, Path]
) -> None:
    with serving(dripping, tls[0]) as port:
        bucket = at(port, endpoint_url=f"https://127.0.0.1:{port}")
        assert failure(bucket, speech) == "no secure connection to it could be made"


def test_a_port_where_nobody_listens(speech: Path) -> None:
    with reserved_port() as port:
        assert failure(at(port), speech) == "it cannot be reached"


def test_a_store_without_tls_behind_https(speech: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    with serving(plain) as port:
        bucket = at(port, endpoint_url=f"https://127.0.0.1:{port}")
        assert failure(bucket, speech) == "no secure connection to it could be made"


def error(code: str, more: str = "") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code>{more}</Error>"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (
            400,
            error("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
            "the bucket is in another region or behind another endpoint "
            "(AuthorizationHeaderMalformed)",
        ),
        (
            301,
            error("PermanentRedirect"),
            "the bucket is in another region or behind another endpoint (PermanentRedirect)",
        ),
        (
            403,
            error("RequestTimeTooSkewed"),
            "the clocks of the store and of the worker differ (RequestTimeTooSkewed)",
        ),
        (
            403,
            error("AccessDenied"),
            "it refused the credentials, or they may not write to this bucket (AccessDenied)",
        ),
        (503, error("SlowDown"), "it is overloaded or out of order (SlowDown)"),
        (507, "", "it is overloaded or out of order (HTTP 507)"),
        (400, error("EntityTooLarge"), "it refused the file (EntityTooLarge)"),
        (400, error("see https://evil.example/ " * 9), "it refused the file (HTTP 400)"),
        (404, "<html>not here</html>", "it has no such bucket (HTTP 404)"),
    ],
)
def test_an_answer_of_the_store_becomes_a_reason(
    speech: Path, status: int, body: str, reason: str
) -> None:
    region = "x-amz-bucket-region: eu-west-1\r\n"
    with serving(answering(status, body, region)) as port:
        assert failure(at(port), speech) == reason


def test_a_bucket_is_not_followed_to_another_region(speech: Path) -> None:
    """A link would be signed for the first region, and answer 400."""
    heads: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        body = error("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>").encode()
        answer = b"400 X\r\n" if len(heads) == 1 else b'200 OK\r\nETag: "0"\r\n'
        writer.write(b"HTTP/1.1 %bContent-Length: %d\r\n\r\n%b" % (answer, len(body), body))
        await writer.drain()

    with serving(elsewhere) as port:
        assert "another region" in failure(at(port), speech)
    (head,) = heads
    # What R2 and GCS would refuse.
    assert b"x-amz-checksum" not in head.lower()
    assert b"x-amz-trailer" not in head.lower()


@pytest.mark.parametrize(
    "body", ["", "<html>welcome</html>", "<html>", "<a>" * 9_999, "\0", error("Strange")]
)
def test_what_is_no_store_is_told_apart(speech: Path, long_speech: Path, body: str) -> None:
    with serving(answering(200, body)) as port:
        for path in (speech, long_speech):
            reason = failure(at(port), path)
            assert reason in (
                "its answers are not those of an S3 store (KeyError)",
                "it is overloaded or out of order (HTTP 500)",  # boto3's word for broken XML
                "it is overloaded or out of order (Strange)",
            )


@pytest.mark.parametrize("status", [200, 400])
def test_an_endless_answer_is_not_read_to_its_end(
    speech: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\n\r\n" % status)
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    with serving(flood) as port:
        assert failure(at(port), speech) == "its answer does not end"
    assert sent < 20 * ANSWER_BYTES


_OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("begin", "then", "seconds"),
    [
        (_OK + b"A: ", b"a", 0.5),
        (_OK + b"Content-Length: 999\r\n\r\n", b" ", 0.5),
        # Those that cost CPU are ended by their number, long before that time.
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 600),
        (_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 100, 600),
    ],
    ids=["head", "body", "heads", "chunks"],
)
def test_an_answer_that_dribbles_is_ended_and_not_asked_for_again(
    speech: Path, monkeypatch: pytest.MonkeyPatch, begin: bytes, then: bytes, seconds: float
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", seconds)
    asked = 0

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(begin)
        while not writer.is_closing():
            writer.write(then)
            await writer.drain()
            await asyncio.sleep(0.01)

    with serving(dribble) as port:
        assert failure(at(port), speech) == "its answer does not end"
    assert asked == 1


def test_a_file_that_is_not_there_is_no_failure_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        s3.upload(at(1), tmp_path / "none.mp3", "s", "audio/mpeg")


# AWS


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        (None, "audio.s3.eu-central-1.amazonaws.com"),
        ("https://s3.eu-central-1.amazonaws.com", "audio.s3.eu-central-1.amazonaws.com"),
        ("https://audio.s3.eu-central-1.amazonaws.com", "audio.s3.eu-central-1.amazonaws.com"),
    ],
)
def test_at_aws_the_bucket_is_in_the_host(
    long_speech: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, host: str
) -> None:
    with mock_aws():
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        region = "eu-central-1" if endpoint is None else None
        bucket = Bucket(endpoint, "AKIA", "secret", "audio", region, "tts")
        aws = client(replace(bucket, endpoint_url="https://s3.eu-central-1.amazonaws.com"))
        aws.create_bucket(
            Bucket="audio", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        url = s3.upload(bucket, long_speech, "s", "audio/wav")
        (listed,) = aws.list_objects_v2(Bucket="audio")["Contents"]
        answer = aws.get_object(Bucket="audio", Key=listed["Key"])
        assert answer["Body"].read() == long_speech.read_bytes()
        assert answer["ContentType"] == "audio/wav"
    assert url.startswith(f"https://{host}/{listed['Key']}?")
    assert "%2Feu-central-1%2Fs3%2Faws4_request" in url


def test_a_name_with_dots_stays_out_of_a_host_with_a_certificate(speech: Path) -> None:
    with mock_aws():
        bucket = Bucket(None, "AKIA", "secret", "a.b.c")
        client(replace(bucket, endpoint_url=None)).create_bucket(Bucket="a.b.c")
        url = s3.upload(bucket, speech, "s", "audio/mpeg")
    assert url.startswith("https://s3.amazonaws.com/a.b.c/s/")


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (None, (None, "virtual", "us-east-1")),
        ("https://s3.amazonaws.com", ("https://s3.amazonaws.com", "virtual", "us-east-1")),
        (
            "https://audio.s3.us-west-2.amazonaws.com/",
            ("https://s3.us-west-2.amazonaws.com", "virtual", "us-west-2"),
        ),
        (
            "https://s3.dualstack.eu-west-1.amazonaws.com",
            ("https://s3.dualstack.eu-west-1.amazonaws.com", "virtual", "eu-west-1"),
        ),
        (
            "https://0a1b.r2.cloudflarestorage.com/audio",
            ("https://0a1b.r2.cloudflarestorage.com", "path", "auto"),
        ),
        (
            "https://storage.googleapis.com",
            ("https://storage.googleapis.com", "path", "auto"),
        ),
        (
            "https://s3.us-west-004.backblazeb2.com",
            ("https://s3.us-west-004.backblazeb2.com", "path", "us-west-004"),
        ),
        (
            "http://minio.internal:9000/",
            ("http://minio.internal:9000", "path", "us-east-1"),
        ),
        ("https://s3.my-company.com", ("https://s3.my-company.com", "path", "us-east-1")),
        ("https://audio.example.com", ("https://audio.example.com", "path", "us-east-1")),
        (
            "https://x.supabase.co/storage/v1/s3",
            ("https://x.supabase.co/storage/v1/s3", "path", "us-east-1"),
        ),
    ],
)
def test_an_endpoint_tells_how_it_is_reached(
    endpoint: str | None, expected: tuple[str | None, str, str]
) -> None:
    bucket = Bucket(endpoint, "key", "secret", "audio")
    assert bucket.address() == expected
    assert replace(bucket, region="my-own").address().region == "my-own"


# Buckets that cannot be


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("endpoint_url", "ftp://store"),
        ("endpoint_url", "store.example.com"),
        ("endpoint_url", "https://"),
        ("endpoint_url", "https://key:hush@store.example.com"),
        ("endpoint_url", "https://@store.example.com"),
        ("endpoint_url", "https://store.example.com:99999"),
        ("endpoint_url", "https://store.example.com:0"),
        ("endpoint_url", "https://store.example.com:"),
        ("endpoint_url", "https://store.example.com?x=1"),
        ("endpoint_url", "https://store.example.com#x"),
        ("endpoint_url", "https://store.example.com/a b"),
        ("endpoint_url", "https://store.example.com/\r\nX: y"),
        ("endpoint_url", "https://store.example.com\\@127.0.0.1"),
        ("endpoint_url", "https://[::1"),
        ("endpoint_url", "https://[::1%25lo]"),
        ("endpoint_url", "https://störe.example"),
        ("endpoint_url", "https://" + "a" * 64),
        ("endpoint_url", "https://" + "a." * 400 + "b"),
        ("endpoint_url", 7),
        ("access_key_id", ""),
        ("access_key_id", "a b"),
        ("access_key_id", None),
        ("secret_access_key", "x\nY: z"),
        ("secret_access_key", "x" * 257),
        ("name", "ab"),
        ("name", "x" * 64),
        ("name", "a/b"),
        ("name", "a..b"),
        ("name", "-ab"),
        ("name", "arn:aws:s3:::audio"),
        ("name", "audio\n"),
        ("region", ""),
        ("region", "eu west"),
        ("region", "evil.example/"),
        ("prefix", "/a"),
        ("prefix", "a//b"),
        ("prefix", "../a"),
        ("prefix", "a/../b"),
        ("prefix", "a/."),
        ("prefix", "a\n"),
        ("prefix", "x" * 201),
        ("url_ttl_seconds", 0),
        ("url_ttl_seconds", 604_801),
        ("url_ttl_seconds", True),
        ("url_ttl_seconds", 1.5),
    ],
)
def test_a_bucket_that_cannot_be_names_its_field_and_not_its_value(
    field: str, value: object
) -> None:
    with pytest.raises(BucketError, match=f"^{field}: must ") as caught:
        at(9000, **{field: value})
    assert caught.value.field == field
    if isinstance(value, str) and len(value) > len("https://"):
        assert value not in str(caught.value)
        assert "hush" not in str(caught.value)


def test_good_prefixes_and_names() -> None:
    for prefix in ("", "a", "a/", "a/b.c/d_e-f=1", "...x/y"):
        assert at(9000, prefix=prefix).prefix == prefix
    for name in ("a.b.c", "Old_Bucket", "x" * 63):
        assert at(9000, name=name).name == name


def test_a_bucket_does_not_show_its_secret() -> None:
    assert "secret" not in repr(Bucket(None, "key", "hush-hush", "audio")).replace("secret_", "")
    assert "hush" not in repr(Bucket(None, "key", "hush-hush", "audio"))


# Buckets that jobs bring


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name that is no address means these."""
    real = socket.getaddrinfo

    def fake(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if re.search("[g-z]", str(host)):
            return [real(each, port, *rest, **more)[0] for each in addresses]
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", fake)


def test_a_job_brings_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "1.1.1.1", "2606:4700::1111")
    job = JOB | {"endpointUrl": "https://store.example.com", "prefix": "mine", "more": 1}
    assert Bucket.from_job(job | {"region": None}, url_ttl_seconds=60) == Bucket(
        "https://store.example.com",
        "someone",
        "hush-hush",
        "audio",
        prefix="mine",
        url_ttl_seconds=60,
        public_only=True,
    )
    assert Bucket.from_job(job | {"region": "eu-1"}).region == "eu-1"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",  # noqa: S104
        "localhost",
        "LOCALHOST:9000",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "2852039166",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[::1]:9000",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::7f00:1]",
        "[fd00::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff0e::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
    ],
)
def test_a_job_s_bucket_is_not_inside(host: str) -> None:
    with pytest.raises(RequestError) as caught:
        Bucket.from_job(JOB | {"endpointUrl": f"https://{host}"})
    assert str(caught.value) == "s3Config.endpointUrl: must be a host on the public internet"


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("169.254.169.254",), ("1.1.1.1", "10.0.0.1"), ("::1",)]
)
def test_a_name_that_leads_inside_is_refused(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    names(monkeypatch, *addresses)
    with pytest.raises(RequestError, match=r"^s3Config\.endpointUrl: must be a host on the public"):
        Bucket.from_job(JOB | {"endpointUrl": "https://store.example.com"})


def test_a_name_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RequestError, match="endpointUrl: the host's name is not known"):
        Bucket.from_job(JOB | {"endpointUrl": "https://store.example.com"})


@pytest.mark.parametrize(
    ("host", "style"),
    [("store.example.com", "path"), ("s3.eu-west-1.amazonaws.com", "virtual")],
)
def test_a_name_that_turns_inside_later_is_told_nothing(
    speech: Path, monkeypatch: pytest.MonkeyPatch, host: str, style: str
) -> None:
    seen: list[bytes] = []
    with serving(recording(seen)) as port:
        names(monkeypatch, "1.1.1.1")
        bucket = Bucket.from_job(JOB | {"endpointUrl": f"https://{host}:{port}"})
        assert bucket.address().style == style
        names(monkeypatch, "127.0.0.1")
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert failure(bucket, speech) == "its host is not on the public internet"
    assert set(seen) <= {b""}


def test_a_job_s_bucket_is_not_reached_through_a_proxy(
    speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy would be the one that looks the name up."""
    seen: list[bytes] = []
    monkeypatch.setattr("delivery.connections.is_public", lambda _: True)
    with serving(recording(seen)) as port, reserved_port() as free:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        bucket = at(free, endpoint_url=f"https://127.0.0.1:{free}", public_only=True)
        assert failure(bucket, speech) == "it cannot be reached"
    assert seen == []


def test_an_operator_may_allow_what_is_inside(store: Bucket, speech: Path) -> None:
    job = {
        "accessId": ACCESS_KEY,
        "accessSecret": SECRET_KEY,
        "bucketName": "audio",
        "endpointUrl": store.endpoint_url,
    }
    with pytest.raises(RequestError, match=r"^s3Config\.endpointUrl: must be an https URL$"):
        Bucket.from_job(job)
    url = s3.upload(Bucket.from_job(job, allow_private=True), speech, "s", "audio/mpeg")
    assert get(url)[1] == b"sound of speech"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "s3Config: must be an object"),
        ([JOB], "s3Config: must be an object"),
        ({}, "s3Config.endpointUrl: must be given"),
        (JOB | {"accessId": 5}, "s3Config.accessId: must be 1 to 256 visible ASCII characters"),
        (JOB | {"accessSecret": "hush hush"}, "s3Config.accessSecret: must be 1 to 256 visible"),
        (JOB | {"bucketName": "hush-hush/"}, "s3Config.bucketName: must be 3 to 63 letters"),
        (JOB | {"endpointUrl": "hush-hush"}, "s3Config.endpointUrl: must be an http or https URL"),
        (JOB | {"endpointUrl": "http://1.1.1.1"}, "s3Config.endpointUrl: must be an https URL"),
        (JOB | {"region": ["hush"]}, "s3Config.region: must be letters, digits and hyphens"),
        (JOB | {"prefix": "../hush"}, "s3Config.prefix: must be at most 200 characters"),
    ],
)
def test_a_job_s_mistake_is_named_in_the_job_s_words(raw: object, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Bucket.from_job(raw)
    assert str(caught.value).startswith(message)
    assert "hush" not in str(caught.value)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=30), st.lists(st.text(), max_size=2)
)


@given(st.dictionaries(st.sampled_from([*JOB, "region", "prefix"]), VALUES))
@settings(max_examples=200)
def test_whatever_a_job_brings_is_a_bucket_or_a_request_error(raw: dict[str, Any]) -> None:
    try:
        Bucket.from_job(JOB | raw)
    except RequestError as refused:
        assert str(refused).startswith("s3Config.")
