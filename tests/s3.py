"""A real S3 server for tests (SeaweedFS in one process), and a proxy that injects faults."""

import http.client
import math
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ACCESS_KEY, SECRET_KEY, BUCKET = "side-ray-test", "side-ray-test-secret", "bucket"
FAULTS = ("500/InternalError", "503/SlowDown", "reset", "slow", "lost", "cut")


@dataclass
class Server:
    """Endpoint and credentials of the server. `env`: the environment variables that a client needs."""

    endpoint: str
    bucket: str = BUCKET
    env: dict[str, str] = field(default_factory=dict)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment(endpoint: str) -> dict[str, str]:
    """The AWS environment variables for `endpoint`; credentials and config of the machine are not used."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextmanager
def s3_server(directory: Path) -> Iterator[Server]:
    """SeaweedFS with one bucket and its data in `directory`, on free ports of 127.0.0.1."""
    weed = Path(sys.executable).with_name("weed")
    http_ports = ["master.port", "filer.port", "volume.port", "admin.port", "s3.port"]
    names = http_ports + [f"{name}.grpc" for name in http_ports]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    directory.mkdir(parents=True, exist_ok=True)
    options = [f"-{name}={port}" for name, port in ports.items()]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    options += [
        "-s3.autoCreateBucket=false",
        f"-bucket={BUCKET}",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    # The shell stops the server when its standard input closes, which also happens if this process is killed.
    shell = ["sh", "-c", '"$@" & read -r _; kill -9 $!; wait', "sh"]
    env = os.environ | environment(endpoint)
    with (directory / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [*shell, weed, "mini", *options], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=directory, env=env
        )
    try:
        _wait_for_bucket(endpoint, directory / "weed.log")
        yield Server(endpoint, BUCKET, environment(endpoint))
    finally:
        process.communicate()
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for_bucket(endpoint: str, log: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=2),
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            client.head_bucket(Bucket=BUCKET)
            return
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.1)


class FaultyProxy(ThreadingHTTPServer):
    """Forwards HTTP requests to `target` and makes a `share` of them fail.

    Faults: "503/SlowDown" answers with that status and code (or that body, if it begins with "<"); "reset" closes the
    connection before the request is forwarded; "lost" closes it after the server has handled the request; "cut" closes it in
    the middle of the response's body; "slow" forwards after one second. `seed` determines which requests fail and how, among
    those whose "METHOD path?query" matches `only`, at most `most` times. `seen` counts requests by method, `made` faults.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        target: str,
        share: float,
        kinds: Sequence[str] = FAULTS,
        only: str = "",
        most: float = math.inf,
        seed: int = 0,
    ):
        super().__init__(("127.0.0.1", 0), _Forward)
        self.only, self.most = re.compile(only), most
        self.target = urlsplit(target).netloc
        self.share, self.kinds, self.random = share, kinds, random.Random(seed)
        self.seen, self.made, self.lock = Counter[str](), Counter[str](), threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self, request: str) -> str:
        """The fault for the next request; "" for none."""
        with self.lock:
            self.seen[request.split()[0]] += 1
            if not self.only.search(request) or self.made.total() >= self.most or self.random.random() >= self.share:
                return ""
            kind = self.random.choice(self.kinds)
            self.made[kind] += 1
            return kind

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        pass

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed:
            # BaseHTTPRequestHandler calls do_GET and so on; one function handles all methods.
            setattr(self, f"do_{self.command}", self.forward)
        return parsed

    def forward(self) -> None:
        fault = self.server.draw(f"{self.command} {self.path}")
        body = self.body()
        if fault == "reset":
            self.reset()
        elif "/" in fault:
            status, _, told = fault.partition("/")
            xml = told if told.startswith("<") else f"<Error><Code>{told}</Code></Error>"
            self.answer(int(status), {"Content-Type": "application/xml"}, xml.encode())
        else:
            time.sleep(fault == "slow")
            connection = http.client.HTTPConnection(self.server.target, timeout=60)
            try:
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                response = connection.getresponse()
                content = response.read()
            finally:
                connection.close()
            if fault == "lost":
                self.reset()
            else:
                self.answer(response.status, dict(response.getheaders()), content, cut=fault == "cut")

    def body(self) -> bytes:
        """The raw body of the request, including chunk headers."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        raw = b""
        while True:
            line = self.rfile.readline()
            raw += line
            raw += self.rfile.read(int(line.split(b";")[0], 16) + 2) if line.split(b";")[0].strip() != b"0" else b""
            if line.split(b";")[0].strip() == b"0":
                while (line := self.rfile.readline()) not in (b"\r\n", b""):
                    raw += line
                return raw + b"\r\n"

    def answer(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if cut:
            self.wfile.write(content[: len(content) // 2])
            self.reset()
        elif self.command != "HEAD":
            self.wfile.write(content)

    def reset(self) -> None:
        """Break the connection with RST, as a crashed server or a full load balancer does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


@contextmanager
def faulty_proxy(target: str, share: float, **faults: Any) -> Iterator[FaultyProxy]:
    """A running `FaultyProxy`; its `endpoint` is what a client should use."""
    proxy = FaultyProxy(target, share, **faults)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


@contextmanager
def silent_server() -> Iterator[str]:
    """An endpoint that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
