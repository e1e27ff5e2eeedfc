"""From words to values to operations: what each command does."""

from __future__ import annotations

import getpass
import json as jsonlib
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from oci_binpkg.cli import render
from oci_binpkg.cli.progress import progress
from oci_binpkg.cli.settings import Settings, load_settings, stderr_is_terminal
from oci_binpkg.cli.wiring import TrustFlags, Wiring
from oci_binpkg.errors import UsageError
from oci_binpkg.events import Warned
from oci_binpkg.installs.open import open_installs
from oci_binpkg.installs.protocol import Installs
from oci_binpkg.model.image import Runtime
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import check_host, check_tag
from oci_binpkg.ops.find import find_cached, find_installed
from oci_binpkg.ops.find import show as show_package
from oci_binpkg.ops.image import push_image
from oci_binpkg.ops.inspect import inspect_cache, inspect_image
from oci_binpkg.ops.push import PushOptions
from oci_binpkg.ops.push import push as push_packages
from oci_binpkg.ops.report import PushReport
from oci_binpkg.ops.selection import Only, select
from oci_binpkg.ops.stack import no_base


@dataclass(frozen=True, slots=True)
class PushFlags:
    """The flags that `push` and `image` share, as written."""

    store: str
    base_image: str
    tag: str
    only: str
    force: bool
    update_index: bool
    compression: str
    jobs: int
    dry_run: bool
    json: bool
    trust: TrustFlags = field(default_factory=TrustFlags)
    skip_present_in: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RuntimeFlags:
    """How a container of the image starts, as written."""

    entrypoint: str
    cmd: str
    env: Sequence[str]
    label: Sequence[str]
    user: str
    workdir: str

    def parse(self) -> Runtime:
        """Return the values. Raises `UsageError` naming the flag."""
        return Runtime(
            _words(self.entrypoint, "--entrypoint"),
            _words(self.cmd, "--cmd"),
            tuple(_pairs(self.env, "--env")),
            dict(_pairs(self.label, "--label")),
            self.user,
            self.workdir,
        )


def push(cache_text: str, queries: Sequence[str], flags: PushFlags) -> int:
    """Push packages; return the exit code: 1 if any failed."""
    settings = load_settings()
    only = _only(flags.only)
    tag = check_tag(flags.tag) if flags.tag else ""
    parsed = parse_queries(queries)
    with observed(settings, flags.json) as wiring:
        installs = installs_at(settings, flags.store)
        if flags.update_index:
            wiring.index_is_settled(cache_text, flags.trust)
        cache = wiring.images(cache_text, flags.trust) if tag else wiring.target(cache_text, flags.trust)
        packer = wiring.packer(installs, flags.compression)
        base = wiring.base_images(flags.base_image) if flags.base_image else no_base
        selection = select(installs, parsed, only)
        elsewhere = frozenset().union(*(_hashes_of(wiring, text) for text in flags.skip_present_in))
        options = PushOptions(
            flags.force, flags.update_index, flags.dry_run, tag, wiring.jobs(flags.jobs), elsewhere=elsewhere
        )
        report = push_packages(installs, selection, cache, packer, base=base, options=options, observer=wiring.observer)
    return _finish(report, json=flags.json)


def _hashes_of(wiring: Wiring, cache_text: str) -> Collection[str]:
    cache = wiring.cache(cache_text)
    hashes = cache.hashes()
    if not hashes:
        wiring.observer(Warned(f"{cache.name} holds no packages: it is empty or does not exist"))
    return hashes


def image(cache_text: str, queries: Sequence[str], flags: PushFlags, runtime_flags: RuntimeFlags) -> int:
    """Push one image of several packages; return the exit code."""
    settings = load_settings()
    runtime = runtime_flags.parse()
    check_tag(flags.tag)
    parsed = parse_queries(queries)
    with observed(settings, flags.json) as wiring:
        installs = installs_at(settings, flags.store)
        cache = wiring.images(cache_text)
        report = push_image(
            installs,
            select(installs, parsed),
            cache,
            wiring.packer(installs, flags.compression),
            flags.tag,
            base=wiring.base_images(flags.base_image) if flags.base_image else no_base,
            runtime=runtime,
            jobs=wiring.jobs(flags.jobs),
            dry_run=flags.dry_run,
            observer=wiring.observer,
        )
    return _finish(report, json=flags.json)


def find(queries: Sequence[str], store: str, cache_text: str, *, json: bool, check: bool | None = None) -> int:
    """List packages of a tree or of a cache."""
    settings = load_settings()
    parsed = parse_queries(queries)
    if store and cache_text:
        raise UsageError("--store and --from exclude each other", hint="ask one place at a time")
    if not (store or cache_text or settings.store):
        raise UsageError(
            "no install tree, no cache, and none in the configuration",
            hint="use --store DIR or --from CACHE, or name caches with `oci-binpkg mirror add`",
        )
    with observed(settings, json) as wiring:
        if cache_text:
            found = find_cached(wiring.cache(cache_text, TrustFlags(check)), parsed, wiring.observer)
        else:
            found = find_installed(installs_at(settings, store), parsed)
    if json:
        render.print_json_list(package.to_json() for package in found)
    else:
        render.print_found(found)
    return 0


def show(query: str, cache_text: str, *, json: bool, check: bool | None = None) -> int:
    """Show one package of a cache."""
    settings = load_settings()
    parsed = Query.parse(query)
    with observed(settings, json) as wiring:
        shown = show_package(wiring.cache(cache_text, TrustFlags(check)), parsed, wiring.observer)
    if json:
        render.print_json(shown.to_json())
    else:
        render.print_shown(shown)
    return 0


def inspect(cache_text: str, *, json: bool) -> int:
    """Show a cache or one image of it as a tree."""
    settings = load_settings()
    with observed(settings, json) as wiring:
        location = wiring.location(cache_text)
        cache = wiring.images_at(location)
        if not location.reference:
            info = inspect_cache(cache, wiring.observer)
            if json:
                render.print_json(info.to_json())
            else:
                render.print_cache(info)
            return 0
        images = inspect_image(cache, location.reference)
    if json:
        render.print_json([each.to_json() for each in images])
    else:
        for each in images:
            render.print_image(each)
    return 0


def load(image_name: str, engine: str, *, json: bool) -> int:
    """Load an image into an engine and print its name there."""
    settings = load_settings()
    with observed(settings, json) as wiring:
        loaded = wiring.load(image_name, engine)
    if json:
        render.print_json({"engine": loaded.engine, "name": loaded.name, "id": loaded.image_id})
    else:
        render.print_lines([f"{loaded.name}  {loaded.image_id}"])
    return 0


def run(image_name: str, command: Sequence[str], engine: str, network: str, ulimits: Sequence[str]) -> int:
    """Run a command in an image; return the command's exit code."""
    settings = load_settings()
    limits = {key: _number(value, f"--ulimit {key}") for key, value in _pairs(ulimits, "--ulimit")}
    with observed(settings, quiet=True) as wiring:
        return wiring.run(
            image_name,
            command,
            engine=engine,
            network=network,
            limits=limits,
            stdout=sys.stdout.buffer,
            stderr=sys.stderr.buffer,
        )


def login(host: str, username: str, *, password_stdin: bool, plain_http: bool) -> int:
    """Check a login and keep it."""
    settings = load_settings()
    check_host(host)
    if password_stdin:
        if not username:
            raise UsageError("--password-stdin needs --username")
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        if not sys.stdin.isatty():
            raise UsageError("no terminal to ask for the password on", hint="use --password-stdin")
        username = username or input(f"username for {host}: ")
        password = getpass.getpass(f"password for {username} at {host}: ")
    if not username or not password:
        raise UsageError("a username and a password are needed", hint=f"nothing was stored for {host}")
    with observed(settings) as wiring:
        where = wiring.login(host, username, password, plain_http=plain_http)
    render.print_lines([f"logged in to {host} as {username}; kept in {where}"])
    return 0


def logout(host: str) -> int:
    """Forget a login."""
    settings = load_settings()
    check_host(host)
    with observed(settings) as wiring:
        where = wiring.logout(host)
    render.print_lines([f"logged out of {host}; removed from {where}" if where else f"no login for {host} was kept"])
    return 0


class observed:  # noqa: N801 - reads as the statement it is
    """Everything wired together, with progress on stderr while the block runs."""

    def __init__(self, settings: Settings, json: bool = False, *, quiet: bool = False) -> None:
        self._settings = settings
        live = stderr_is_terminal() and not json
        self._progress = progress(live=live, color=settings.color, quiet=quiet)

    def __enter__(self) -> Wiring:
        return Wiring(self._settings, self._progress.__enter__())

    def __exit__(self, *exc: object) -> None:
        self._progress.__exit__(None, None, None)


def _finish(report: PushReport, *, json: bool) -> int:
    if json:
        render.print_json(report.to_json())
    else:
        render.print_push(report)
        sys.stdout.flush()
        sys.stderr.write("\n  ".join([render.push_summary(report), *render.hints(report)]) + "\n")
    return report.exit_code


def installs_at(settings: Settings, store: str) -> Installs:
    """Open the install tree that a flag or the settings name. Raises `UsageError`, `InstallsError`."""
    path = store or settings.store
    if not path:
        raise UsageError("no install tree named", hint="use --store DIR, or set store in the configuration")
    return open_installs(path, spack_prefix=settings.spack_prefix)


def parse_queries(texts: Sequence[str]) -> list[Query]:
    """Return the queries. Raises `QueryError`."""
    return [Query.parse(text) for text in texts]


def _only(text: str) -> Only | None:
    if not text:
        return None
    try:
        return Only(text)
    except ValueError:
        raise UsageError(f"--only {text!r}: package or dependencies is expected") from None


def _words(text: str, flag: str) -> tuple[str, ...] | None:
    if not text:
        return None
    try:
        words = jsonlib.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: {error}") from None
    if not all(isinstance(word, str) for word in words):
        raise UsageError(f"{flag} {text!r}: a list of texts is expected")
    return tuple(words)


def _number(text: str, flag: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{flag}={text!r}: a number is expected")
    return int(text)


def _pairs(texts: Iterable[str], flag: str) -> Iterable[tuple[str, str]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"{flag} {text!r}: K=V is expected")
        yield key, value
