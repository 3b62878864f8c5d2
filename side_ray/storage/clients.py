"""boto3 sessions and clients, and pyarrow's file system for S3."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import pyarrow.fs as pafs
from botocore.config import Config
from botocore.utils import parse_timestamp

ATTEMPTS = 10
# A wrong address must be reported within seconds; a run in progress must survive an outage of a minute.
FIRST_CONTACT: dict[str, Any] = {"connect_timeout": 2, "read_timeout": 3.5, "attempts": 3}
UNDER_WAY: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 60, "attempts": ATTEMPTS}


def timestamp(value: Any) -> datetime:
    """A time in any format that AWS uses. ISO 8601, the format of listings, is parsed without botocore's slow format
    detection."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        parsed: datetime = parse_timestamp(value)
        return parsed


def new_session(region: str | None) -> boto3.session.Session:
    """A new session (creating the default one is not thread-safe)."""
    core = botocore.session.get_session()
    # Otherwise a long listing spends four fifths of its time parsing timestamps.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=timestamp)
    return boto3.session.Session(botocore_session=core, region_name=region)


def new_client(
    session: boto3.session.Session,
    endpoint: str | None,
    connect_timeout: float,
    read_timeout: float,
    attempts: int,
    on_request: Callable[..., None],
) -> Any:
    """An S3 client that tries each request up to `attempts` times and calls `on_request(request=…)` before each try.

    Time-outs are in seconds.
    """
    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
        tcp_keepalive=True,
        # Other servers than AWS rarely have a DNS name for each bucket.
        s3={"addressing_style": "path"} if endpoint else {},
    )
    region = session.region_name or "us-east-1"
    client = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    client.meta.events.register("request-created.s3", on_request)
    return client


def arrow_system(client: Any, bucket: str) -> pafs.S3FileSystem:
    """pyarrow's file system for the server and region of a boto3 client. It finds credentials itself, in the same
    places, so that pickling it does not include them, and renews expired ones."""
    region = client.meta.region_name
    url = urlsplit(client.meta.endpoint_url)
    where = {}
    if url.hostname in (f"s3.{region}.amazonaws.com", "s3.amazonaws.com"):
        # boto3 follows redirects to the region of a bucket, pyarrow does not.
        region = client.head_bucket(Bucket=bucket).get("BucketRegion", region)
    else:
        where = {"endpoint_override": url.netloc, "scheme": url.scheme}
    return pafs.S3FileSystem(
        region=region,
        **where,
        connect_timeout=UNDER_WAY["connect_timeout"],
        request_timeout=UNDER_WAY["read_timeout"],
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
