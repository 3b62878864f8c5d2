"""What object storage and the way to it can do to a run, against a real server and a proxy that makes things worse."""

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest

from side_ray.errors import RunError
from side_ray.storage import Store, clients, open_store
from tests.s3 import ACCESS_KEY, SECRET_KEY, Server, faulty_proxy, silent_server


@pytest.fixture
def uri(s3: Server, tmp_path: Path) -> str:
    return f"s3://{s3.bucket}/{tmp_path.name}"


@pytest.fixture
def raw(s3: Server) -> Any:
    """A client that knows nothing of stores."""
    return boto3.session.Session().client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs and tries small enough to see the end of them."""
    monkeypatch.setitem(clients.FIRST_CONTACT, "read_timeout", 0.3)
    monkeypatch.setitem(clients.UNDER_WAY, "attempts", 2)


def uploads(raw: Any, store: Store) -> list[str]:
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    return [
        upload["Key"] for upload in raw.list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}/").get("Uploads", ())
    ]


def said(action: Callable[[], object], *parts: str) -> None:
    """`action` fails with one line that holds every one of `parts` and no secret."""
    with pytest.raises(RunError) as caught:
        action()
    line = str(caught.value)
    assert caught.value.exit_code == 1
    assert "\n" not in line
    assert all(part in line for part in parts), line
    assert SECRET_KEY not in line


def test_listings_are_read_to_the_end(uri: str) -> None:
    store = open_store(uri)
    written = {f"samples/part-{i:06d}" for i in range(1_050)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write(key, b"x"), written))
    assert sorted(entry.key for entry in store.list("samples")) == sorted(written)
    store.delete("samples")
    assert list(store.list()) == []


def test_a_store_goes_to_other_processes_and_back(uri: str) -> None:
    store = open_store(uri)
    store.write("x", b"parent")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(store.read, "x").result() == b"parent"
        pool.submit(store.write, "y", b"child").result()
    assert store.read("y") == b"child"


# In a process of its own: a fork of one in which Ray runs may crash.
FORK = """
import multiprocessing, sys
from side_ray.storage import open_store

def child():
    assert store.read("x") == b"x"

store = open_store(sys.argv[1], endpoint=sys.argv[2])
store.write("x", b"x")
if sys.argv[3] == "fork":
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
assert store.read("x") == b"x"
"""


def test_a_forked_process_makes_its_own_connections(uri: str, s3: Server) -> None:
    seen = {}
    for kind in ("alone", "fork"):
        with faulty_proxy(s3.endpoint, 0) as proxy:
            command = [sys.executable, "-c", FORK, uri, proxy.endpoint, kind]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            seen[kind] = proxy.seen["GET"]
    assert seen["fork"] - seen["alone"] == 2, "the child's first contact and its read"


def test_a_pickled_store_carries_its_endpoint_to_machines_without_the_variable(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(uri)
    store.write("x", b"x")
    pickled = pickle.dumps(store)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_REGION")
    assert pickle.loads(pickled).read("x") == b"x"


def test_an_endpoint_given_wins_over_the_environment(uri: str, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    open_store(uri, endpoint=s3.endpoint, region="us-east-1").check()


def test_without_an_endpoint_it_is_aws_and_the_file_system_is_in_the_buckets_region(
    s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with moto.mock_aws():
        far = boto3.session.Session().client("s3", region_name="eu-central-1")
        far.create_bucket(Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        store = open_store("s3://far/run")
        store.write("x", b"x")
        assert [entry.key for entry in store.list()] == ["x"]
        system, root = store.arrow()
        assert (system.region, root) == ("eu-central-1", "far/run")
        said(open_store("s3://nowhere/run").check, "cannot reach s3://nowhere/run at AWS (us-east-1)", "no such bucket")


def test_what_stands_for_a_directory_or_leads_out_of_one_is_not_listed(uri: str, raw: Any, s3: Server) -> None:
    store = open_store(uri)
    store.write("d/x", b"x")
    prefix = uri.rpartition("/")[2]
    raw.put_object(Bucket=s3.bucket, Key=f"{prefix}/d/", Body=b"")
    assert [entry.key for entry in store.list()] == ["d/x"]
    assert [path.name for path in store.fetch_dir("d").iterdir()] == ["x"]
    store.delete("d")
    assert raw.list_objects_v2(Bucket=s3.bucket, Prefix=f"{prefix}/").get("Contents", []) == []


# Faults that pass


def test_nothing_is_lost_where_one_request_in_ten_fails(uri: str, raw: Any, s3: Server, tmp_path: Path) -> None:
    contents = {f"d/{i:03d}": os.urandom(500 * i) for i in range(40)}
    with faulty_proxy(s3.endpoint, 0.1, seed=2) as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        store.check()

        def around(key: str) -> None:
            store.write(key, contents[key])
            assert store.read(key) == contents[key]
            assert store.size(key) == len(contents[key])
            assert store.open_input(key).read() == contents[key]

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(around, contents))
            assert all(pool.map(lambda i: store.write_if_absent(f"once/{i}", f"{i}".encode()), range(20)))
        assert {entry.key for entry in store.list("d")} == contents.keys()
        local = store.fetch_dir("d")
        assert {f"d/{path.name}": path.read_bytes() for path in local.iterdir()} == contents
        store.delete("once")
        failed = proxy.made.total() - proxy.made["slow"]
        assert all(proxy.made[kind] for kind in proxy.kinds), proxy.made
        # An answer that is cut costs no retry if it had no body, and none that we see within boto3's transfers.
        assert failed - proxy.made["cut"] <= store.retries <= failed
    clean = open_store(uri)
    assert {entry.key: clean.read(entry.key) for entry in clean.list()} == contents
    assert uploads(raw, clean) == []


@pytest.mark.parametrize("kind", ["500/InternalError", "503/SlowDown", "503/ServiceUnavailable", "reset", "lost"])
def test_a_passing_fault_is_retried_and_counted(uri: str, s3: Server, kind: str) -> None:
    with faulty_proxy(s3.endpoint, 1, kinds=[kind], only="^PUT", most=1) as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        store.write("x", b"x")
        assert (store.retries, proxy.seen["PUT"]) == (1, 2)
        assert pickle.loads(pickle.dumps(store)).retries == 0
    assert open_store(uri).read("x") == b"x"


@pytest.mark.parametrize("kind", ["500/InternalError", "reset", "cut", "lost"])
def test_a_read_that_breaks_is_begun_again(uri: str, s3: Server, kind: str) -> None:
    data = os.urandom(300_000)
    open_store(uri).write("x", data)
    with faulty_proxy(s3.endpoint, 1, kinds=[kind], only="^GET .*/x", most=2) as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        assert store.read("x") == data
        assert store.open_input("x").read_at(1_000, 5_000) == data[5_000:6_000]
        assert store.retries == 2


def test_a_first_contact_that_fails_in_passing_is_forgiven(uri: str, s3: Server) -> None:
    with faulty_proxy(s3.endpoint, 1, kinds=["503/SlowDown"], only="list-type", most=4) as proxy:
        assert open_store(uri, endpoint=proxy.endpoint).size("x") is None
        assert list(open_store(uri, endpoint=proxy.endpoint).list()) == []


def test_a_conditional_put_whose_answer_was_lost_knows_its_object(uri: str, s3: Server) -> None:
    for content, mine in ((b"mine", True), (b"another's", False)):
        key = content.decode()
        if not mine:
            open_store(uri).write(key, b"there before")
        with faulty_proxy(s3.endpoint, 1, kinds=["lost"], only="^PUT", most=1) as proxy:
            assert open_store(uri, endpoint=proxy.endpoint).write_if_absent(key, content) is mine


def test_a_conditional_put_that_meets_another_is_sent_again(uri: str, s3: Server) -> None:
    with faulty_proxy(s3.endpoint, 1, kinds=["409/ConditionalRequestConflict"], only="^PUT", most=1) as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        assert store.write_if_absent("x", b"x")
        assert store.retries == 1


def test_deleting_many_at_once_survives_faults(uri: str, s3: Server) -> None:
    open_store(uri).write("d/x", b"x")
    with faulty_proxy(s3.endpoint, 1, kinds=["500/InternalError", "lost"], only="^(POST|DELETE)", most=3) as proxy:
        open_store(uri, endpoint=proxy.endpoint).delete("d")
    assert list(open_store(uri).list()) == []


def deletion_refused(code: str) -> str:
    """S3 answers 200 to a request to delete many, and lists in it what it did not delete."""
    return f"200/<DeleteResult><Error><Key>k</Key><Code>{code}</Code></Error></DeleteResult>"


def test_what_a_deletion_of_many_left_is_deleted_by_the_next_try(uri: str, s3: Server) -> None:
    open_store(uri).write("d/x", b"x")
    with faulty_proxy(s3.endpoint, 1, kinds=[deletion_refused("InternalError")], only="^POST", most=1) as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        store.delete("d")
        assert (store.retries, proxy.made.total()) == (1, 1)
    assert list(open_store(uri).list()) == []


# Faults that do not


def test_what_must_not_be_deleted_is_told_at_once(uri: str, s3: Server) -> None:
    open_store(uri).write("d/x", b"x")
    with faulty_proxy(s3.endpoint, 1, kinds=[deletion_refused("AccessDenied")], only="^POST") as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        said(lambda: store.delete("d"), f"cannot delete {uri}/d", "access denied")
        assert store.retries == 0


def refused(uri: str, *parts: str, **options: str) -> None:
    """The first request is refused, whichever it is, in one line."""
    store = open_store(uri, **options)
    for action in (store.check, lambda: store.write("x", b"x"), lambda: list(store.list()), store.arrow):
        said(action, uri, *parts)


def test_a_wrong_secret(uri: str, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(RunError) as caught:
        open_store(uri).check()
    assert "not-the-secret" not in str(caught.value)
    refused(uri, s3.endpoint, "the secret key does not match the access key", "check AWS_ACCESS_KEY_ID")


def test_a_wrong_key(uri: str, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    refused(uri, s3.endpoint, "the server does not know the access key", "check AWS_ACCESS_KEY_ID")


def test_no_key_at_all(uri: str, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused(uri, s3.endpoint, "no usable credentials were found", "check AWS_ACCESS_KEY_ID")


def test_a_profile_that_is_not_there(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nosuch")
    refused(uri, "no usable credentials were found", "AWS_PROFILE")


def test_a_missing_bucket(s3: Server) -> None:
    refused("s3://no-such-bucket/run", s3.endpoint, "there is no such bucket", "create it")


def test_nobody_listens(uri: str) -> None:
    refused(uri, "http://127.0.0.1:1", "no connection", "check storage.endpoint", endpoint="http://127.0.0.1:1")


def test_no_such_host(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    said(open_store(uri, endpoint="http://no-such-host.invalid:1").check, "no-such-host.invalid", "no connection")


def test_a_server_that_never_answers(uri: str, impatient: None) -> None:
    with silent_server() as endpoint:
        said(open_store(uri, endpoint=endpoint).check, endpoint, "it does not respond in time")


def test_a_fault_that_does_not_pass_is_given_up(uri: str, s3: Server, impatient: None) -> None:
    with faulty_proxy(s3.endpoint, 1, kinds=["503/SlowDown"], only="^PUT") as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        said(lambda: store.write("x", b"x"), f"cannot write {uri}/x", "still fails after several attempts (SlowDown)")
        assert (store.retries, proxy.seen["PUT"]) == (1, 2)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("400/ExpiredToken", "the session token has expired (ExpiredToken); renew the credentials"),
        ("403/AccessDenied", "access denied"),
        ("400/RequestTimeTooSkewed", "set the clock"),
        ("507/InsufficientStorage", "the server is full"),
        ("400/SomethingNew", "SomethingNew"),
    ],
)
def test_a_final_fault_under_way_is_told_at_once(uri: str, s3: Server, fault: str, says: str) -> None:
    with faulty_proxy(s3.endpoint, 1, kinds=[fault], only="^(PUT|POST)") as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        said(lambda: store.write("x", b"x"), f"cannot write {uri}/x at {proxy.endpoint}", says)
        said(lambda: store.put_dir(Path(__file__).parent, "d"), f"cannot write {uri}/d/", says)
        said(store.check, f"cannot write {uri} at", says)
        assert (store.retries, proxy.seen["PUT"]) == (0, 3)


# Uploads in parts


BIG = 40 << 20


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(os.urandom(1 << 20) * (BIG >> 20))
    return path


def test_a_large_file_goes_up_in_parts_and_comes_back(uri: str, raw: Any, s3: Server, big: Path) -> None:
    with faulty_proxy(s3.endpoint, 1, kinds=["500/InternalError", "reset"], only="partNumber", most=2) as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        store.put_dir(big.parent, "model")
        assert (store.size("model/weights.safetensors"), store.retries) == (BIG, 2)
        assert proxy.seen["POST"] == 2
    assert (open_store(uri).fetch_dir("model") / big.name).read_bytes() == big.read_bytes()
    assert uploads(raw, store) == []


def test_an_upload_that_fails_half_way_leaves_nothing(uri: str, raw: Any, s3: Server, big: Path) -> None:
    with faulty_proxy(s3.endpoint, 1, kinds=["403/AccessDenied"], only="partNumber=2") as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        said(lambda: store.put_file(big, "weights"), f"cannot write {uri}/weights", "access denied")
    assert not store.exists("weights")
    assert uploads(raw, store) == []


def test_uploads_of_killed_writers_are_no_objects_and_are_swept(uri: str, raw: Any, s3: Server) -> None:
    store = open_store(uri)
    prefix = uri.rpartition("/")[2]
    for key in ("a/1", "a/2"):
        upload = raw.create_multipart_upload(Bucket=s3.bucket, Key=f"{prefix}/{key}")["UploadId"]
        raw.upload_part(
            Bucket=s3.bucket, Key=f"{prefix}/{key}", UploadId=upload, PartNumber=1, Body=io.BytesIO(b"x" * 9_999)
        )
    elsewhere = raw.create_multipart_upload(Bucket=s3.bucket, Key=f"{prefix}-other/x")
    assert list(store.list()) == []
    assert store.sweep(older_than=3_600) == 0
    assert len(uploads(raw, store)) == 2
    assert store.sweep(older_than=-60) == 2
    assert uploads(raw, store) == []
    assert uploads(raw, open_store(f"{uri}-other")) == [f"{prefix}-other/x"]
    raw.abort_multipart_upload(Bucket=s3.bucket, Key=f"{prefix}-other/x", UploadId=elsewhere["UploadId"])


# The cache of downloads


@pytest.fixture
def counted(uri: str, s3: Server) -> Iterator[tuple[Store, Any]]:
    """A store with a directory `d` of three files, and the proxy that counts what is asked of it."""
    for i in range(3):
        open_store(uri).write(f"d/{i}", b"%d" % i)
    with faulty_proxy(s3.endpoint, 0) as proxy:
        yield open_store(uri, endpoint=proxy.endpoint), proxy


def test_a_directory_is_downloaded_once_until_it_changes(counted: tuple[Store, Any]) -> None:
    store, proxy = counted
    first = store.fetch_dir("d")
    listing_and_files = proxy.seen["GET"]
    assert store.fetch_dir("d") == first
    assert proxy.seen["GET"] == listing_and_files + 1
    store.write("d/1", b"9")
    second = store.fetch_dir("d")
    assert [(second / name).read_bytes() for name in "012"] == [b"0", b"9", b"2"]
    assert (first / "1").read_bytes() == b"1"


def test_many_who_ask_at_once_download_once(counted: tuple[Store, Any]) -> None:
    store, proxy = counted
    store.check()
    before, start = proxy.seen["GET"], threading.Barrier(6)

    def fetch(_: int) -> Path:
        start.wait()
        return store.fetch_dir("d")

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(fetch, range(6)))) == 1
    assert proxy.seen["GET"] - before == 6 + 3


def test_a_download_that_fails_half_way_leaves_nothing(uri: str, s3: Server) -> None:
    for i in range(3):
        open_store(uri).write(f"d/{i}", b"%d" % i)
    with faulty_proxy(s3.endpoint, 1, kinds=["403/AccessDenied"], only="GET .*/d/2", most=1) as proxy:
        store = open_store(uri, endpoint=proxy.endpoint)
        said(lambda: store.fetch_dir("d"), f"cannot read {uri}/d/2", "access denied")
        assert [path for path in Path(os.environ["SIDE_RAY_CACHE"]).iterdir() if path.is_dir()] == []
        assert sorted(path.name for path in store.fetch_dir("d").iterdir()) == ["0", "1", "2"]


def test_what_a_killed_download_left_is_cleared_by_the_next(uri: str) -> None:
    store = open_store(uri)
    store.write("d/x", b"x")
    final = store.fetch_dir("d")
    left = final.with_name(f".{final.name}.killed")
    final.rename(left)
    assert store.fetch_dir("d") == final
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_said_so(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SIDE_RAY_CACHE", str(tmp_path / "file" / "cache"))
    store = open_store(uri)
    store.write("d/x", b"x")
    said(lambda: store.fetch_dir("d"), str(tmp_path / "file" / "cache"), "set SIDE_RAY_CACHE")


def test_no_secret_is_in_what_a_used_store_shows(uri: str) -> None:
    store = open_store(uri)
    store.check()
    assert SECRET_KEY not in f"{store!r} {store.__getstate__()}"
    assert ACCESS_KEY.encode() not in pickle.dumps(store)
