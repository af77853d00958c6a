"""The few requests to S3 that snapshots need, on boto3, with errors in plain words.

Retries with back-off, time-outs and the pool of connections are botocore's own. All calls block
and may be made from several threads at once. boto3 is imported only when a client is made.
"""

from __future__ import annotations

import base64
import importlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from nuntwist.errors import StartError
from nuntwist.files import Files, write_all

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 20
"""How long a server may be silent before a request counts as failed."""
DELETED_AT_ONCE: Final = 1_000
"""What one request to delete may name."""
_CHUNK: Final = 1 << 20
_LONGEST_WAIT: Final = 20.0

T = TypeVar("T")

_REASONS: Final = {
    "NoSuchBucket": "the bucket does not exist",
    "NoSuchKey": "there is no such object",
    "AccessDenied": "access is denied to these credentials",
    "403": "access is denied to these credentials",
    "AllAccessDisabled": "access is denied to these credentials",
    "InvalidAccessKeyId": "the access key id is not known there",
    "SignatureDoesNotMatch": "the secret key does not fit the access key id",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "EntityTooLarge": "the object is too large, more partitions make them smaller",
    "NotImplemented": "the service does not know such a request (conditional writes are needed)",
    "SlowDown": "the service asks for fewer requests",
    "PermanentRedirect": "the bucket is in another region",
    "NoCredentialsError": "no credentials were found",
    "PartialCredentialsError": "the credentials are not complete",
    "ConnectTimeoutError": "the server could not be reached in time",
    "ReadTimeoutError": "the server did not answer in time",
    "EndpointConnectionError": "there is no connection to the server",
    "ConnectionClosedError": "the server closed the connection",
    "ResponseStreamingError": "the connection broke off within the answer",
    "IncompleteReadError": "the connection broke off within the answer",
    "SSLError": "the certificate of the server is not accepted",
    "ProxyConnectionError": "the proxy cannot be reached",
}
"""What codes of S3, and errors of botocore by the names of their classes, mean."""


class RequestFailed(Exception):
    """A request has failed, retries included; the text says why, without a full stop."""


class Conflict(Exception):
    """A conditional put found another object than the one it was to replace."""


class Found(NamedTuple):
    """An object: its bytes and its entity tag."""

    data: bytes
    tag: str


class Listed(NamedTuple):
    """An object in a listing: its key, and when it was written, in seconds since 1970."""

    key: str
    written: float


@dataclass(frozen=True, slots=True)
class Access:
    """How to get at S3.

    :ivar url: of a service that is not Amazon's; its buckets are then addressed in the path.
    :ivar key_id: access key id; where empty, boto3 looks for credentials as it does.
    :ivar inflight: connections kept.
    :ivar retries: tries of a request after the first.
    """

    url: str = ""
    key_id: str = ""
    secret_key: str = field(default="", repr=False)
    inflight: int = 10
    retries: int = 3


def connect(access: Access) -> Any:
    """Make a client, which can be shared by threads; nothing is sent yet.

    :raise StartError: boto3 is not installed, or does not take a setting.
    """
    try:
        boto3 = importlib.import_module("boto3")
        config = importlib.import_module("botocore.config")
    except ImportError:
        raise StartError(
            "Snapshots in S3 need boto3, which is not installed:"
            " install it with: pip install 'nuntwist[s3]'."
        ) from None
    session = boto3.session.Session()
    options = config.Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": access.retries + 1, "mode": "standard"},
        max_pool_connections=access.inflight,
        tcp_keepalive=True,
        # Older services do not know the checksums that newer releases of boto3 add.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if access.url else None,
    )
    try:
        return session.client(
            "s3",
            region_name=session.region_name or "us-east-1",
            endpoint_url=access.url or None,
            aws_access_key_id=access.key_id or None,
            aws_secret_access_key=access.secret_key or None,
            config=options,
        )
    except (ValueError, _failures()) as error:
        raise StartError(f"S3 cannot be used: {_plainly(error)}.") from None


def _failures() -> Any:
    """The root of all errors of botocore but those that a server answers with."""
    return importlib.import_module("botocore.exceptions").BotoCoreError


def _plainly(error: Exception) -> str:
    """Why something failed, in words; never the whole of an error, which may span lines."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        told = answer.get("Error", {})
        code = str(told.get("Code", ""))
        message = str(told.get("Message", "")).splitlines()
        said = f"{code}: {message[0]}" if message else code
        return _REASONS.get(code, said.rstrip(" .:") or "the server gave no reason")
    name = type(error).__name__
    return _REASONS.get(name) or f"{name}: {error}".splitlines()[0].rstrip(" .:")


class Objects:
    """The objects of one bucket.

    :param client: as :func:`connect` gives it.
    :param retries: how often a GET whose answer breaks off is begun again.
    :param page: keys in one answer to a listing.
    :param sleep: waits between two such tries, given seconds.
    :raise RequestFailed: from every method: it has failed, retries included.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        retries: int = 3,
        page: int = 1_000,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.bucket = bucket
        self._client = client
        self._retries = retries
        self._page = page
        self._sleep = sleep
        exceptions = importlib.import_module("botocore.exceptions")
        self._refused: Any = exceptions.ClientError
        self._failed: Any = exceptions.BotoCoreError
        self._both: Any = (exceptions.ClientError, exceptions.BotoCoreError)

    def uri(self, key: str) -> str:
        """How an object is named to people."""
        return f"s3://{self.bucket}/{key}"

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: str) -> Found | None:
        """Get a whole object; None where there is none."""

        def read(answer: Any) -> Found:
            return Found(answer["Body"].read(), str(answer["ETag"]))

        return self._get(key, read)

    def download(self, key: str, files: Files, name: str) -> bool:
        """Get an object into a file; False where there is none.

        :raise OSError: the file cannot be written.
        """

        def read(answer: Any) -> bool:
            handle = files.create(name)
            try:
                for chunk in answer["Body"].iter_chunks(_CHUNK):
                    write_all(handle, chunk)
            finally:
                handle.close()
            return True

        return self._get(key, read) or False

    def _get(self, key: str, read: Callable[[Any], T]) -> T | None:
        failures = 0
        while True:
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
            except self._refused as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return None
                raise RequestFailed(_plainly(error)) from None
            except self._failed as error:
                raise RequestFailed(_plainly(error)) from None
            try:
                return read(answer)
            except self._failed as error:
                # botocore tries again only until an answer begins.
                if failures == self._retries:
                    raise RequestFailed(_plainly(error)) from None
                self._sleep(min(2.0**failures, _LONGEST_WAIT) * random.random())
                failures += 1

    def list(self, prefix: str) -> Iterator[Listed]:
        """Give all objects whose keys begin with ``prefix``, a page at a time."""
        token: dict[str, str] = {}
        while True:
            try:
                answer = self._client.list_objects_v2(
                    Bucket=self.bucket, Prefix=prefix, MaxKeys=self._page, **token
                )
            except self._both as error:
                raise RequestFailed(_plainly(error)) from None
            for one in answer.get("Contents", ()):
                yield Listed(one["Key"], one["LastModified"].timestamp())
            if not answer.get("IsTruncated"):
                return
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    # -- writing -------------------------------------------------------------------------------

    def put(self, key: str, body: bytes | BinaryIO, checksum: int) -> None:
        """Put an object.

        :param checksum: CRC-32 of its bytes, for the server to check.
        """
        crc = base64.b64encode(checksum.to_bytes(4, "big")).decode()
        try:
            self._client.put_object(Bucket=self.bucket, Key=key, Body=body, ChecksumCRC32=crc)
        except self._both as error:
            raise RequestFailed(_plainly(error)) from None

    def replace(self, key: str, data: bytes, tag: str | None) -> str:
        """Put an object in the place of one that is known, or of none.

        :param tag: the entity tag of the one to replace; None: there must be none.
        :return: the new tag.
        :raise Conflict: there is another one, or none; perhaps it is this one itself, where
            the answer to a first try was lost.
        """
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            answer = self._client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType="application/json", **condition
            )
        except self._refused as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (409, 412) or _code(error) == "NoSuchKey":
                raise Conflict from None
            raise RequestFailed(_plainly(error)) from None
        except self._failed as error:
            raise RequestFailed(_plainly(error)) from None
        return str(answer["ETag"])

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many a request; one that is not there counts as deleted."""
        try:
            if len(keys) == 1:
                self._client.delete_object(Bucket=self.bucket, Key=keys[0])
                return
            for start in range(0, len(keys), DELETED_AT_ONCE):
                named = [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]]
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": named, "Quiet": True}
                )
                for error in answer.get("Errors", ()):
                    code = str(error.get("Code", ""))
                    raise RequestFailed(_REASONS.get(code, code))
        except self._both as error:
            raise RequestFailed(_plainly(error)) from None

    def close(self) -> None:
        """Give back the connections."""
        self._client.close()


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
