"""Storage: a local directory or a prefix in S3-compatible object storage, behind one interface.

`base.Store` is the interface, `local` and `s3` implement it. Another kind of storage is one subclass and a scheme in
`open_store`.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from side_ray.errors import UserError, check_credentials
from side_ray.storage.base import Entry, Store, is_key
from side_ray.storage.cache import CACHE_GB
from side_ray.storage.local import LocalStore

__all__ = ["Entry", "Store", "open_store", "within"]


def open_store(
    uri: str,
    *,
    key: str = "run.uri",
    endpoint: str | None = None,
    region: str | None = None,
    cache_gb: float = CACHE_GB,
) -> Store:
    """The store at `uri`: a local path, `file:///path`, or `s3://bucket/prefix`. Nothing is contacted yet.

    Args:
        key: the config key of the URI, for messages.
        endpoint: URL of an S3-compatible server; by default AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, then AWS itself.
        region: by default AWS_REGION, AWS_DEFAULT_REGION, then that of the AWS profile.
        cache_gb: size in GiB of the cache of downloaded directories, see `cache`.

    Credentials come from the standard AWS chain (environment, shared files, web identity, container, instance).

    Raises:
        UserError: the URI or the endpoint is not of a supported form.
    """
    check_credentials(uri, key)
    scheme, separator, rest = uri.partition("://")
    if not uri:
        raise UserError("is empty; give a local path or s3://bucket/prefix", key)
    if not separator:
        try:
            return LocalStore(Path(uri))
        except RuntimeError:
            raise UserError(f"{uri} names a home directory that does not exist; give the path itself", key) from None
    if scheme == "file" and rest.startswith("/"):
        return LocalStore(Path(rest))
    if scheme == "s3":
        from side_ray.storage.s3 import S3Store

        bucket, _, prefix = rest.partition("/")
        server = checked_endpoint(endpoint)
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            server = server or checked_endpoint(os.environ.get(name) or None, name)
        region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
        if not bucket or (prefix.strip("/") and not is_key(prefix.strip("/"))):
            raise UserError(f"{uri} is not of the form s3://bucket/prefix", key)
        return S3Store(bucket, prefix.strip("/"), server, region, cache_gb)
    raise UserError(f"{uri} is not supported; give a local path or s3://bucket/prefix", key)


def within(uri: str, other: str) -> bool:
    """Whether a local path or URI leads to the same place as another one, or into it. Links are followed."""
    inner, outer = _location(uri), _location(other)
    return inner[: len(outer)] == outer


def _location(uri: str) -> tuple[str, ...]:
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        return scheme, *filter(None, rest.split("/"))
    return "", *Path(os.path.realpath(Path(rest if separator else uri).expanduser())).parts


def checked_endpoint(endpoint: str | None, key: str = "storage.endpoint") -> str | None:
    """The endpoint, without a trailing slash. UserError unless it is http(s)://host[:port] without credentials.

    Args:
        key: the config key or the environment variable that has it.
    """
    if not endpoint:
        return None
    if "@" in endpoint:
        raise UserError("holds credentials; give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead", key)
    check_credentials(endpoint, key)
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise UserError(f"{endpoint!r} is not the URL of a server; write http(s)://host:port", key)
    return endpoint.rstrip("/")
