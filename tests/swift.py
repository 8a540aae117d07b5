"""A real S3 store on loopback that checks signatures and expiry: OpenStack Swift with its s3api.

Four processes with a folder of their own; nothing of /etc is read. Root is not needed, but the
folder has to be on a file system with user extended attributes.
"""

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import boto3

from tests.need import require_program
from tools.demo import reserved_port

ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
SERVERS = ("account", "container", "object", "proxy")
PACKAGES = "swift-proxy swift-account swift-container swift-object python3-swift"
FILTERS = (
    "catch_errors gatekeeper memcache listing_formats s3api tempauth copy slo dlo versioned_writes"
)
START_SECONDS = 120

# One process instead of nine runs of swift-ring-builder, which take 7 s.
RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *rings = sys.argv[1:]
for ring in rings:
    name, port = ring.split(":")
    builder = RingBuilder(6, 1, 1)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port),
                     "device": "d1", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[str]:
    """The store's endpoint. `folder` must be empty; no process is left behind.

    Skips the calling test where the packages are missing.
    """
    for server in SERVERS:
        require_program(f"swift-{server}-server", PACKAGES)
    with contextlib.ExitStack() as stack:
        ports = {server: stack.enter_context(reserved_port()) for server in SERVERS}
        _write_settings(folder, ports)
        for server in SERVERS:
            stack.enter_context(_running(server, folder))
        _wait_for(ports.values(), folder)
        yield f"http://127.0.0.1:{ports['proxy']}"


@contextlib.contextmanager
def swift_bucket(folder: Path) -> Iterator[dict[str, str]]:
    """The store with a bucket in it, as the settings of a worker that uploads there."""
    with swift(folder) as endpoint:
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="audio")
        yield settings(endpoint)


def settings(endpoint: str) -> dict[str, str]:
    """A worker's settings for the bucket that lies behind an endpoint."""
    return {
        "S3_ENDPOINT_URL": endpoint,
        "S3_ACCESS_KEY_ID": ACCESS_KEY,
        "S3_SECRET_ACCESS_KEY": SECRET_KEY,
        "S3_BUCKET_NAME": "audio",
    }


def _write_settings(folder: Path, ports: dict[str, int]) -> None:
    for name in ("disk/d1", "cache"):
        (folder / name).mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = only\n"
    )
    common = f"bind_ip = 127.0.0.1\nworkers = 0\nuser = {getpass.getuser()}\nswift_dir = {folder}\n"
    rings = [f"{server}:{ports[server]}" for server in SERVERS[:3]]
    debian = "/usr/bin/python3"  # the one that the packages belong to
    subprocess.run([debian, "-c", RINGS, str(folder), *rings], check=True, capture_output=True)
    for server in SERVERS[:3]:
        (folder / f"{server}.conf").write_text(
            f"[DEFAULT]\n{common}bind_port = {ports[server]}\ndevices = {folder}/disk\n"
            f"mount_check = false\ndisable_fallocate = true\nfallocate_reserve = 0\n"
            f"recon_cache_path = {folder}/cache\n"
            f"[pipeline:main]\npipeline = {server}-server\n"
            f"[app:{server}-server]\nuse = egg:swift#{server}\n"
        )
    filters = dict.fromkeys(FILTERS.split(), "") | {
        "memcache": "memcache_servers = 127.0.0.1:1\n",  # required; it does without what it finds
        "s3api": "location = us-east-1\ns3_acl = false\n",
        "tempauth": f"user_{ACCESS_KEY.replace(':', '_')} = {SECRET_KEY} .admin\n",
    }
    (folder / "proxy.conf").write_text(
        f"[DEFAULT]\n{common}bind_port = {ports['proxy']}\n"
        f"[pipeline:main]\npipeline = {FILTERS} proxy-server\n"
        f"[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        + "".join(f"[filter:{n}]\nuse = egg:swift#{n}\n{more}" for n, more in filters.items())
    )


@contextlib.contextmanager
def _running(server: str, folder: Path) -> Iterator[None]:
    with (folder / f"{server}.log").open("wb") as log:
        process = subprocess.Popen(
            # So that they go too where the tests are killed.
            ["setpriv", "--pdeathsig", "KILL", f"swift-{server}-server", folder / f"{server}.conf"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(ports: Iterable[int], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    logs = [path.read_text() for path in sorted(folder.glob("*.log"))]
                    raise RuntimeError("Swift does not start\n" + "\n".join(logs)) from None
                time.sleep(0.05)
