"""Objects in S3 as places of backups, without a server."""

from __future__ import annotations

import io
from typing import IO, Any

import pytest

from nuntwist import cli_s3
from nuntwist.cli_client import AskFailed
from nuntwist.cli_files import reading, writing
from nuntwist.cli_s3 import Bucket, is_s3

pytest.importorskip("boto3")
from botocore.exceptions import ClientError, EndpointConnectionError

NAME = "s3://bucket/a/b.nun"


def refusal(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Some")


class Objects:
    """What boto3 gives, as far as it is used.

    :ivar fail: what every call raises.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], bytes] = {}
        self.fail: Exception | None = None

    def _check(self) -> None:
        if self.fail is not None:
            raise self.fail

    def head_object(self, Bucket: str, Key: str) -> None:
        self._check()
        if (Bucket, Key) not in self.held:
            raise refusal("404", "Not Found")

    def upload_fileobj(self, file: IO[bytes], bucket: str, key: str) -> None:
        self._check()
        self.held[bucket, key] = file.read()

    def download_fileobj(self, bucket: str, key: str, file: IO[bytes]) -> None:
        self._check()
        if (bucket, key) not in self.held:
            raise refusal("404", "Not Found")
        file.write(self.held[bucket, key])


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Objects:
    found = Objects()
    monkeypatch.setattr(cli_s3, "_client", lambda environment: found)
    return found


def test_an_object_is_written_whole_or_not_at_all(objects: Objects) -> None:
    def write(data: bytes, force: bool = False) -> None:
        with writing(NAME, force, {}) as sink:
            sink.write(data)
            if not data:
                raise AskFailed("The backup is damaged.")

    write(b"one")
    assert objects.held == {("bucket", "a/b.nun"): b"one"}
    with pytest.raises(AskFailed, match=r"s3://bucket/a/b\.nun is there already: --force"):
        write(b"two")
    with pytest.raises(AskFailed, match="damaged"):
        write(b"", force=True)
    assert objects.held["bucket", "a/b.nun"] == b"one"
    write(b"two", force=True)
    with reading(NAME, {}) as file:
        assert file.read() == b"two"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (refusal("403", "Forbidden"), "access is denied."),
        (refusal("NoSuchBucket", "The bucket does not exist"), "The bucket does not exist."),
        (refusal("", ""), "it was refused."),
        (EndpointConnectionError(endpoint_url="http://x"), "Could not connect to the endpoint"),
    ],
)
def test_what_goes_wrong_is_one_sentence(objects: Objects, error: Exception, words: str) -> None:
    bucket = Bucket(NAME, {})
    with pytest.raises(AskFailed, match="it is not there"):
        bucket.fetch(io.BytesIO())
    objects.fail = error
    for act in (bucket.check_free, lambda: bucket.store(io.BytesIO(b"x"))):
        with pytest.raises(AskFailed) as failed:
            act()
        assert str(failed.value).startswith(f"{NAME} cannot be read or written: {words}")
        assert str(failed.value).count("\n") == 0


@pytest.mark.parametrize("name", ["s3://", "s3://bucket", "s3://bucket/", "s3://b/k/", "s3:///k"])
def test_what_names_no_object(objects: Objects, name: str) -> None:
    assert is_s3(name)
    with pytest.raises(AskFailed, match="is not the name of an object"):
        Bucket(name, {})


def test_who_asks_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, "/nonexistent")
    environment = {
        "NUN_S3_API_URL": "http://127.0.0.1:9000",
        "NUN_S3_KEY_ID": "id",
        "NUN_S3_SECRET_KEY": "key",
    }
    client: Any = cli_s3._client(environment)
    assert client.meta.endpoint_url == "http://127.0.0.1:9000"
    assert client.meta.config.s3["addressing_style"] == "path"
    given = client._request_signer._credentials
    assert (given.access_key, given.secret_key) == ("id", "key")
    with pytest.raises(AskFailed, match="S3 cannot be used: Invalid endpoint: nonsense"):
        cli_s3._client({**environment, "NUN_S3_API_URL": "nonsense"})
    del environment["NUN_S3_API_URL"]
    assert cli_s3._client(environment).meta.endpoint_url == "https://s3.amazonaws.com"
