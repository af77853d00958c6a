"""Objects in S3 as places of backups: ``s3://BUCKET/KEY``.

Key, secret and address come from NUN_S3_KEY_ID, NUN_S3_SECRET_KEY and NUN_S3_API_URL; what is
not set is found as boto3 finds it (its own variables, files, the machine's role). Nothing of
them is ever shown. boto3 moves large objects in parts, in threads of its own; no reactor runs
meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

from nuntwist.cli_client import AskFailed, first_line

PREFIX = "s3://"


def is_s3(name: str) -> bool:
    """Whether a name is one of an object."""
    return name.startswith(PREFIX)


class Bucket:
    """One object.

    :param name: ``s3://BUCKET/KEY``.
    :raise AskFailed: it is not so, or boto3 is not there.
    """

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self._name = name
        self._bucket, _, self._key = name.removeprefix(PREFIX).partition("/")
        if not self._bucket or not self._key or self._key.endswith("/"):
            raise AskFailed(f"{name!r} is not the name of an object, as in s3://bucket/key.")
        self._client = _client(environment)

    def check_free(self) -> None:
        """See that there is no such object.

        :raise AskFailed: there is one, or nobody can tell.
        """
        from botocore.exceptions import ClientError

        with self._in_words():
            try:
                self._client.head_object(Bucket=self._bucket, Key=self._key)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey"):
                    return
                raise
        raise AskFailed(f"{self._name} is there already: --force replaces it.")

    def store(self, file: IO[bytes]) -> None:
        """Write the object.

        :raise AskFailed: it cannot be; an older one stays then.
        """
        with self._in_words():
            self._client.upload_fileobj(file, self._bucket, self._key)

    def fetch(self, file: IO[bytes]) -> None:
        """Read the object into a file.

        :raise AskFailed: it cannot be.
        """
        with self._in_words():
            self._client.download_fileobj(self._bucket, self._key, file)

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            fields = error.response.get("Error", {})
            said = fields.get("Message") or fields.get("Code") or "it was refused"
            reason = {"404": "it is not there", "403": "access is denied"}.get(
                str(fields.get("Code")), str(said)
            )
        except (BotoCoreError, Boto3Error, ValueError) as error:
            reason = str(error)
        else:
            return
        raise AskFailed(f"{self._name} cannot be read or written: {first_line(reason)}.") from None


def _client(environment: Mapping[str, str]) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise AskFailed("s3:// needs boto3: pip install 'nuntwist[s3]'.") from None
    address = environment.get("NUN_S3_API_URL") or None
    given: dict[str, Any] = {}
    if environment.get("NUN_S3_KEY_ID") and environment.get("NUN_S3_SECRET_KEY"):
        given["aws_access_key_id"] = environment["NUN_S3_KEY_ID"]
        given["aws_secret_access_key"] = environment["NUN_S3_SECRET_KEY"]
    # Servers other than Amazon's know neither buckets as hosts nor the newer checksums.
    more: dict[str, Any] = {}
    if address is not None:
        more["s3"] = {"addressing_style": "path"}
        more["request_checksum_calculation"] = "when_required"
        more["response_checksum_validation"] = "when_required"
    config = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 3}, **more)
    try:
        session = boto3.session.Session()
        region = session.region_name or "us-east-1"
        return session.client(
            "s3", endpoint_url=address, region_name=region, config=config, **given
        )
    except (BotoCoreError, ValueError) as error:
        raise AskFailed(f"S3 cannot be used: {first_line(str(error))}.") from None
