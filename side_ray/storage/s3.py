"""A store in S3 or on a server with the same protocol.

boto3 sends the requests, which botocore's standard mode retries (exponential back-off with full jitter). pyarrow's own
file system is only for Ray Train: it does not retry when a response is interrupted.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, ReadTimeoutError

from side_ray.storage.base import Entry, Store, checked_key, checked_prefix, is_key
from side_ray.storage.cache import CACHE_GB, cached_dir
from side_ray.storage.clients import ATTEMPTS, FIRST_CONTACT, UNDER_WAY, arrow_system, new_client, new_session
from side_ray.storage.faults import ABSENT, FAULTS, code_of, explained, is_broken_body, is_conflict, is_passing
from side_ray.storage.ranges import RangeReader

T = TypeVar("T")

PARTS = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20)


class S3Store(Store):
    """Objects under `s3://bucket/prefix`. A process connects at its first request.

    The first request lists one key with short time-outs, so that a wrong address, key or bucket is reported within seconds.
    Later requests are attempted up to ten times.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        cache_gb: float = CACHE_GB,
    ):
        self.bucket = bucket
        self.prefix = checked_prefix(prefix)
        self.endpoint = endpoint
        self.region = region
        self.cache_gb = cache_gb
        self.uri = f"s3://{bucket}/{self.prefix}".removesuffix("/")
        self._forget()

    def _forget(self) -> None:
        self._connecting = threading.RLock()
        self._counting = threading.Lock()
        self._client_of: tuple[int, Any] | None = None
        self._arrow_of: tuple[int, pafs.S3FileSystem] | None = None
        self._retries = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("bucket", "prefix", "endpoint", "region", "cache_gb", "uri")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def retries(self) -> int:
        return self._retries

    def read(self, key: str) -> bytes:
        return self.read_range(key)

    def read_range(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """The object's bytes from `start` up to but not including `end`, by default all. Raises FileNotFoundError."""
        place = {"Bucket": self.bucket, "Key": self._full(key)}
        if start or end is not None:
            place["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        with self._explaining("read", key):
            try:
                # botocore retries until it has the response's header, but not if the body is interrupted.
                data: bytes = self._persist(lambda: self._client().get_object(**place)["Body"].read(), is_broken_body)
                return data
            except ClientError as error:
                if code_of(error) in ABSENT:
                    raise FileNotFoundError(f"no {key} in {self.uri}") from None
                raise

    def write(self, key: str, data: bytes) -> None:
        with self._explaining("write", key):
            self._client().put_object(Bucket=self.bucket, Key=self._full(key), Body=data)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        new = {"Bucket": self.bucket, "Key": self._full(key), "Body": data, "IfNoneMatch": "*"}
        with self._explaining("write", key):
            try:
                self._persist(lambda: self._client().put_object(**new), is_conflict)
                return True
            except ClientError as error:
                if code_of(error) != "PreconditionFailed":
                    raise
                # After a retry this may be our own object: the response to the first put was lost.
                return error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0 and self.read(key) == data

    def put_file(self, local: Path, key: str) -> None:
        if not local.is_file():
            raise FileNotFoundError(f"no file {local}")
        with self._explaining("write", key):
            self._client().upload_file(str(local), self.bucket, self._full(key), Config=PARTS)

    def size(self, key: str) -> int | None:
        found = self._head(key)
        return None if found is None else int(found["ContentLength"])

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._explaining("read", key):
            try:
                found: dict[str, Any] = self._client().head_object(Bucket=self.bucket, Key=self._full(key))
                return found
            except ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                raise

    def list(self, prefix: str = "") -> Iterator[Entry]:
        for key, item in self._objects(prefix):
            if is_key(key):
                yield Entry(key, item["Size"], item["LastModified"].timestamp())

    def list_all(self) -> Iterator[Entry]:
        for key, item in self._objects(""):
            yield Entry(key, item["Size"], item["LastModified"].timestamp())

    def _objects(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for page in self._pages("list_objects_v2", prefix):
            for item in page.get("Contents", ()):
                key = item["Key"][len(self._below("")) :]
                # Consoles and file systems put empty objects like "directory/" as markers.
                if key and not (key.endswith("/") and not item["Size"]):
                    yield key, item

    def delete(self, prefix: str) -> None:
        prefix = checked_key(prefix.removesuffix("/"))
        with self._explaining("delete", prefix):
            self._client().delete_object(Bucket=self.bucket, Key=self._full(prefix))
            for page in self._pages("list_objects_v2", prefix):
                self._delete_all([{"Key": item["Key"]} for item in page.get("Contents", ())])

    def _delete_all(self, objects: Sequence[dict[str, str]]) -> None:
        def request() -> None:
            answer = self._client().delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            for error in answer.get("Errors", ()):
                raise ClientError({"Error": error}, "DeleteObjects")

        if objects:
            self._persist(request, is_passing)

    def open_input(self, key: str) -> pa.NativeFile:
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(f"no {key} in {self.uri}")
        return pa.PythonFile(RangeReader(partial(self.read_range, key), size), mode="r")

    def versions(self, keys: Sequence[str]) -> Iterator[str]:
        # The listing of the directory of a single file may be long.
        found = {key: self._head(key) for key in keys} if len(keys) < 2 else dict(self._objects(""))
        for key in keys:
            item = found.get(key)
            yield "" if item is None else str(item["ETag"])

    def fetch_dir(self, prefix: str, fresh: bool = False, only: Collection[str] | None = None) -> Path:
        versions = {key: item["ETag"] for key, item in self._objects(prefix) if is_key(key)}
        if not versions:
            raise FileNotFoundError(f"nothing below {prefix} in {self.uri}")
        names = {key: self._full(key).removeprefix(self._below(prefix)) for key in versions}
        if only is not None:
            versions = {key: version for key, version in versions.items() if names[key] in only}

        def download(directory: Path) -> None:
            for key in versions:
                target = directory / names[key]
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._explaining("read", key):
                    self._client().download_file(self.bucket, self._full(key), str(target), Config=PARTS)

        # The ETags are in the identity, so that changed objects are downloaded again.
        identity = json.dumps([self.endpoint, self.uri, self._below(prefix), versions], sort_keys=True)
        return cached_dir(identity, download, self.cache_gb * 2**30, fresh)

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        client = self._client()
        with self._connecting:
            if self._arrow_of is None or self._arrow_of[0] != os.getpid():
                self._arrow_of = os.getpid(), arrow_system(client, self.bucket)
            return self._arrow_of[1], f"{self.bucket}/{self.prefix}".removesuffix("/")

    def sweep(self, older_than: float) -> int:
        removed = 0
        with self._explaining("clean", ""):
            for page in self._pages("list_multipart_uploads", ""):
                for upload in page.get("Uploads", ()):
                    if time.time() - upload["Initiated"].timestamp() > older_than:
                        self._abort(upload["Key"], upload["UploadId"])
                        removed += 1
        return removed

    def _abort(self, full_key: str, upload_id: str) -> None:
        try:
            self._client().abort_multipart_upload(Bucket=self.bucket, Key=full_key, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise

    def check(self) -> None:
        with self._connecting:
            self._client_of = os.getpid(), self._connect(patient=False)
        probe = {"Bucket": self.bucket, "Key": self._full(".side-ray-check")}
        with self._explaining("write", ""):
            # One name for all processes: the next one removes what a killed one left.
            self._client().put_object(**probe, Body=b"")
            self._client().delete_object(**probe)

    def _full(self, key: str) -> str:
        """The key in the bucket."""
        return self._below("") + checked_key(key)

    def _below(self, prefix: str) -> str:
        """The prefix in the bucket of all keys below `prefix`."""
        return "".join(f"{part}/" for part in (self.prefix, checked_prefix(prefix)) if part)

    def _pages(self, operation: str, prefix: str) -> Iterator[dict[str, Any]]:
        pages = {"Bucket": self.bucket, "Prefix": self._below(prefix)}
        with self._explaining("list", prefix):
            yield from self._client().get_paginator(operation).paginate(**pages)

    @contextmanager
    def _explaining(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except FAULTS as error:
            endpoint = self.endpoint or f"AWS ({self.region or 'default region'})"
            raise explained(error, f"{action} {self.uri}/{key}".removesuffix("/"), endpoint) from error

    def _persist(self, request: Callable[[], T], again: Callable[[Exception], bool]) -> T:
        """The result of `request`, repeated as long as `again(error)`, for errors that botocore does not retry."""
        attempt = 1
        while True:
            try:
                return request()
            except FAULTS as error:
                if attempt == ATTEMPTS or not again(error):
                    raise
            self._count()
            time.sleep(random.uniform(0, min(20, 2 ** (attempt - 1))))  # noqa: S311 (jitter)
            attempt += 1

    def _count(self, request: Any = None, **_: Any) -> None:
        """Count a retry; botocore calls this before it sends a request."""
        if request is None or request.context.get("retries", {}).get("attempt", 1) > 1:
            with self._counting:
                self._retries += 1

    def _client(self) -> Any:
        """This process's boto3 client, shared by its threads."""
        made = self._client_of
        if made is None or made[0] != os.getpid():
            with self._connecting:
                made = self._client_of
                if made is None or made[0] != os.getpid():
                    made = self._client_of = os.getpid(), self._connect()
        return made[1]

    def _connect(self, patient: bool = True) -> Any:
        """A client, after the server has responded. `patient` accepts a server that was reached but did not respond in time."""
        with self._explaining("reach", ""):
            session = new_session(self.region)
            try:
                first = new_client(session, self.endpoint, **FIRST_CONTACT, on_request=self._count)
                first.list_objects_v2(Bucket=self.bucket, Prefix=self._below(""), MaxKeys=1)
            except FAULTS as error:
                if not is_passing(error) or (isinstance(error, ReadTimeoutError) and not patient):
                    raise
            return new_client(session, self.endpoint, **UNDER_WAY, on_request=self._count)
