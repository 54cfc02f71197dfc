"""One bucket and prefix of an object store, through obstore; the only file that imports it.

Enters: a URL and the environment (credentials, endpoint). Leaves: bytes with the stamp that a conditional put compares,
and one sentence for everything that can go wrong, in seconds. Credentials are never read here, kept or shown.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlparse

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from foundation.errors import FileChanged, RegistryUnreachable, SettingInvalid

# what is small, an alias, a manifest, a listing, is there or refused in about 8 seconds; weights may take an hour, but not stand still
_SMALL = {"connect_timeout": "3s", "timeout": "4s"}
_LARGE = {"connect_timeout": "3s", "read_timeout": "60s", "timeout": "3600s"}
_RETRY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=6)}
_PARTS_AT_ONCE = 4

_NAMES = {
    "s3": ("AWS_", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_", "GOOGLE_APPLICATION_CREDENTIALS"),
    "az": ("AZURE_", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
}
# given in code they hide the environment's, so that these are carried over by hand
_FROM_ENVIRONMENT = ("allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate", "proxy_excludes")
_NOT_NOTHING = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_REFUSED = ("status code: 401", "status code: 403")  # of a listing, which has no error of its own for them
_ASKED_FOR_CREDENTIALS = ("/latest/api/token", "/latest/meta-data", "metadata.google", "/metadata/identity", "Account must be specified")
_PIECE_BYTES = 1 << 20


class Found(NamedTuple):
    """An object's bytes, and the stamp by which a conditional put knows that nobody has changed it since."""

    content: bytes
    stamp: dict[str, str]


class Bucket:
    """Objects below one prefix, named by their path below it. Every method raises RegistryUnreachable."""

    def __init__(self, url: str) -> None:
        """Take an s3://, gs:// or az:// URL; nothing is asked yet. Raises SettingInvalid, RegistryUnreachable."""
        self.url = url.rstrip("/")
        parsed = urlparse(url)
        if "@" in parsed.netloc or parsed.query or parsed.fragment:  # not repeated: it may be a key
            raise SettingInvalid(
                f"registry.url = {parsed.scheme}://… holds more than a bucket and a prefix; credentials are environment names"
            )
        if not parsed.netloc:
            raise SettingInvalid(f"registry.url = {url} names no bucket; use {parsed.scheme}://BUCKET/PREFIX")
        self._name, self._scheme = parsed.netloc, parsed.scheme
        empty = next((name for name in _NOT_NOTHING if os.environ.get(name) == ""), None)
        if parsed.scheme == "s3" and empty is not None:  # the client would take nothing for an endpoint or a key
            raise SettingInvalid(f"{empty} is set to nothing; give it a value, or leave it out")
        self._kept: dict[str, Found] = {}
        with self._asked():
            self._small, self._large = self._client(_SMALL), self._client(_LARGE)

    def get(self, path: str) -> Found | None:
        """Return a small object, None if there is none; what has been read before is sent again only if it has changed."""
        kept = self._kept.get(path)
        options: Any = {"if_none_match": kept.stamp["e_tag"]} if kept is not None and "e_tag" in kept.stamp else {}
        try:
            with self._asked(FileNotFoundError, NotModifiedError):
                answer = self._small.get(path, options=options)
                found = Found(bytes(answer.bytes()), {key: answer.meta[key] for key in ("e_tag", "version") if answer.meta.get(key)})
        except FileNotFoundError:
            self._kept.pop(path, None)
            return None
        except NotModifiedError:
            return kept
        self._kept[path] = found
        return found

    def put(self, path: str, content: bytes, over: dict[str, str] | Literal["create"]) -> bool:
        """Write a small object if it still has the stamp `over`, or is not there yet; return whether it was written.

        False may also mean that it was written, that the answer got lost and that the client asked again.
        """
        mode: Any = over
        try:
            with self._asked(AlreadyExistsError, PreconditionError):
                self._small.put(path, content, mode=mode)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def names(self, prefix: str) -> dict[str, str]:
        """Return the e-tag of every object below a prefix, by its path below that."""
        with self._asked():
            listed = [meta for page in self._small.list(prefix) for meta in page]
        return {meta["path"].removeprefix(f"{prefix}/"): str(meta["e_tag"] or (meta["size"], meta["last_modified"])) for meta in listed}

    def upload(self, path: str, file: Path) -> None:
        """Write a file of any size, whole or not at all, over whatever is there."""
        with self._asked():
            self._large.put(path, file, max_concurrency=_PARTS_AT_ONCE)

    def download(self, path: str, into: Path) -> None:
        """Write an object of any size to a file. Raises FileChanged if it is not there."""
        with into.open("wb") as file:
            try:
                with self._asked(FileNotFoundError):
                    for piece in self._large.get(path).stream(min_chunk_size=_PIECE_BYTES):
                        file.write(piece)
            except FileNotFoundError:
                raise FileChanged(f"{self.url}/{path} is missing; the manifest lists it") from None

    def _client(self, limits: dict[str, str]) -> Any:
        prefix, _ = _NAMES[self._scheme]
        given = {key: os.environ[prefix + key.upper()] for key in _FROM_ENVIRONMENT if prefix + key.upper() in os.environ}
        options: Any = {**limits, **given}
        return from_url(self.url, client_options=options, retry_config=_RETRY)

    @contextmanager
    def _asked(self, *told_apart: type[Exception]) -> Iterator[None]:
        """Turn what the client says into our sentence, all but what the caller tells apart; a missing bucket is no missing object.

        The client's errors are not chained: their text may hold a signed address.
        """
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            if isinstance(error, told_apart) and not any(mark in str(error) for mark in _NO_BUCKET):
                raise
            raise self._sentence(error) from None

    def _sentence(self, error: Exception) -> RegistryUnreachable:
        text, (prefix, credentials) = str(error), _NAMES[self._scheme]
        head = f"the object store of registry.url = {self.url}"
        if any(mark in text for mark in _NO_BUCKET):
            return RegistryUnreachable(f"{head} has no bucket {self._name}")
        if any(mark in text for mark in _ASKED_FOR_CREDENTIALS):
            return RegistryUnreachable(f"{head} wants credentials, and the environment has none; set {credentials}")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or any(mark in text for mark in _REFUSED):
            return RegistryUnreachable(f"{head} refuses the credentials of the environment; see {credentials}")
        if "BadScheme" in text:
            return RegistryUnreachable(f"{head} is to be asked over http://, unencrypted; set {prefix}ALLOW_HTTP=true to allow that")
        first = re.sub(r"\?\S*", "", text.splitlines()[0])  # a query may be a signature
        address = re.search(r"https?://[^/\s]+", first)
        where = f" at {address[0]}" if address else ""
        return RegistryUnreachable(f"{head} cannot be used{where}: {first.rpartition(' - ')[2][:200]}")
