"""The programs that keep passwords for docker and podman: `docker-credential-NAME get|store|erase`.

Source: the credential helper protocol of docker-credential-helpers: the server address on stdin, JSON on stdout.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import AuthError

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ABSENT: Final = "credentials not found"
_MAX_ANSWER: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class CredentialHelper:
    """One helper program. `path` is a search path for it, "" the process's own; `timeout` in seconds.

    `configured_by` says which file and key name it, for errors. Every method raises `AuthError` when the program has
    a name that no helper has, is missing, fails, hangs, or answers junk; what it printed is never shown, it may be a
    secret.
    """

    name: str
    configured_by: str
    path: str = ""
    timeout: float = 30.0

    def get(self, server: str) -> tuple[str, str] | None:
        """Return user name and secret for `server`, or None if the helper has none."""
        status, answer = self._run("get", server.encode())
        if status != 0:
            if _ABSENT in answer.decode("utf-8", "replace").lower():
                return None
            raise self._broken(f"ended with status {status}")
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            raise self._broken("did not answer with JSON") from None
        if not isinstance(document, dict):
            raise self._broken("did not answer with a JSON object")
        username, secret = document.get("Username"), document.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            raise self._broken("answered without Username and Secret")
        return (username, secret) if secret else None

    def store(self, server: str, username: str, secret: str) -> None:
        """Keep a secret for `server`."""
        document = {"ServerURL": server, "Username": username, "Secret": secret}
        status, _ = self._run("store", json.dumps(document).encode())
        if status != 0:
            raise self._broken(f"could not store (status {status})")

    def erase(self, server: str) -> None:
        """Forget the secret for `server`, if there is one."""
        status, answer = self._run("erase", server.encode())
        if status != 0 and _ABSENT not in answer.decode("utf-8", "replace").lower():
            raise self._broken(f"could not erase (status {status})")

    def _run(self, action: str, data: bytes) -> tuple[int, bytes]:
        if not _NAME.fullmatch(self.name):
            raise self._broken("has a name that no credential helper has")
        program = shutil.which(f"docker-credential-{self.name}", path=self.path or None)
        if program is None:
            raise self._broken("is not installed")
        try:
            done = subprocess.run([program, action], input=data, capture_output=True, timeout=self.timeout, check=False)
        except subprocess.TimeoutExpired:
            raise self._broken(f"did not answer within {self.timeout:g} s") from None
        except OSError as error:
            raise self._broken(f"could not be started: {error.strerror}") from None
        answer = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        return done.returncode, answer[:_MAX_ANSWER]

    def _broken(self, what: str) -> AuthError:
        return AuthError(
            f"credential helper docker-credential-{self.name[:60]!r} {what}",
            hint=f"it is configured in {self.configured_by}; repair or remove that entry",
        )
