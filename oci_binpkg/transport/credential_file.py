"""The files in which docker and podman keep registry logins: reading, and changing one entry among others."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from oci_binpkg.disk import FileTooLargeError, NotRegularError, make_folder, open_file, read_descriptor, replace_file
from oci_binpkg.errors import LocalDiskError
from oci_binpkg.file_lock import Patience, locked

_MAX_FILE: Final = 16 * 1024 * 1024
_SECRET_MODE: Final = 0o600
_ELSEWHERE: Final = "remove it; DOCKER_CONFIG and REGISTRY_AUTH_FILE name other places"


@dataclass(frozen=True, slots=True)
class AuthFile:
    """A docker `config.json` or podman `auth.json`: path and JSON object as found; an absent file has no members.

    `exposed` is true when other users of the machine may read the file, `changeable` when they may write it.
    """

    path: str
    document: Mapping[str, Any] = field(default_factory=dict)
    exposed: bool = False
    changeable: bool = False

    def table(self, member: str) -> Mapping[str, Any]:
        """Return an object member (`auths`, `credHelpers`), empty when absent or not an object."""
        value = self.document.get(member)
        return value if isinstance(value, dict) else {}

    @property
    def store(self) -> str:
        """The name of the helper that keeps all logins, or ""."""
        value = self.document.get("credsStore")
        return value if isinstance(value, str) else ""


def read_auth_file(path: str) -> AuthFile:
    """Read the file. Raises `LocalDiskError` naming it when it cannot be read or is not a JSON object."""
    try:
        with open_file(path) as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = read_descriptor(stream.fileno(), _MAX_FILE, path)
    except FileNotFoundError:
        return AuthFile(path)
    except (NotRegularError, FileTooLargeError) as error:
        raise LocalDiskError(f"{path}: {error.strerror}", hint=_ELSEWHERE) from error
    except OSError as error:
        raise LocalDiskError(f"{path}: {error.strerror}") from error
    try:
        document = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise LocalDiskError(
            f"{path} is not valid JSON", hint="repair or remove it; docker and podman read it too"
        ) from None
    if not isinstance(document, dict):
        raise LocalDiskError(f"{path} does not hold a JSON object")
    return AuthFile(
        path, document, bool(mode & (stat.S_IRGRP | stat.S_IROTH)), bool(mode & (stat.S_IWGRP | stat.S_IWOTH))
    )


def change_auth_file(path: str, change: Callable[[dict[str, Any]], None], patience: Patience | None = None) -> None:
    """Apply `change` to the document and put it back, mode 0600, everything else kept.

    Writers exclude one another through a lock file beside it; readers see the old or the new file, never half of one.
    Raises `LocalDiskError`, also when the present content is not JSON: what cannot be understood is not overwritten.
    """
    target = os.path.realpath(path)
    try:
        make_folder(os.path.dirname(target), 0o700)
        with locked(f"{target}.lock", patience, mode=_SECRET_MODE):
            document = dict(read_auth_file(target).document)
            change(document)
            replace_file(target, _encoded(document), mode=_SECRET_MODE)
    except NotRegularError as error:
        raise LocalDiskError(f"{error.filename}: {error.strerror}", hint=_ELSEWHERE) from error
    except OSError as error:
        raise LocalDiskError(f"{path} cannot be written: {error.strerror}") from error


def _encoded(document: dict[str, Any]) -> bytes:
    try:
        return json.dumps(document, indent="\t", ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half surrogates in somebody else's entry, which only escapes can express
        return json.dumps(document, indent="\t").encode() + b"\n"
