"""Fixtures for tests against real servers. Whatever is started here is ended here, also when a test fails."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from fault_bench import FaultBench
from tools import error_texts

from tests.support.isolation import homes, isolated_home, isolated_session
from tests.support.real import base_images, debian_packages, golden_store
from tests.support.real.certificates import Authority, make_authority
from tests.support.real.components import RealParts, cache_directory, command_path, must_be_complete
from tests.support.real.engines import DockerEngine, PodmanEngine, docker_engine, podman_engine
from tests.support.real.process import StartError, clean_environment, run_tool, short_directory
from tests.support.real.registry import RealRegistry, RegistryOptions, real_registry
from tests.support.real.token_server import TokenServer, token_server
from tests.support.self_signed import Certificates

__all__ = ["homes", "isolated_home", "isolated_session"]

USERS = {"alice": "correct horse"}
WITH_ENGINES = ("test_golden_images.py", "test_documented_images.py", "test_harness.py")
"""What starts Docker or Podman, which take seconds to come up and one after the other."""
LONGEST = (
    *WITH_ENGINES,
    "test_kills.py",
    "test_install.py",
    "test_real_packages.py",
    "test_load.py",
    "test_command_fuzz.py",
)
"""What takes minutes begins first where tests run side by side."""
ONE_BY_ONE = ("test_kills.py", "test_fuzz.py", "test_load.py")
"""Files of which one process takes this test and one that, because each takes long and none shares what it makes."""
PARTS = pytest.StashKey[RealParts]()
TEXTS = pytest.StashKey[dict[str, list[str]]]()

Tool = Callable[..., CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-error-texts", action="store_true", help="write error_texts.txt anew, by the tests that run"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PARTS] = RealParts(complete=must_be_complete())
    config.stash[TEXTS] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup`, give the tests of one file to one process, and those that start engines to one."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.split("::", maxsplit=1)[0]).name
            return nodeid if name in ONE_BY_ONE else "engines" if name in WITH_ENGINES else name

    return ByFile(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in what one of several processes of tests has to report."""
    report = getattr(node, "workeroutput", {})
    node.config.stash[PARTS].used.update(report.get("used", ()))
    node.config.stash[PARTS].missing.update(report.get("missing", {}))
    node.config.stash[TEXTS].update(report.get("texts", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    report = getattr(session.config, "workeroutput", None)
    if report is not None:  # one of several processes
        parts = session.config.stash[PARTS]
        report |= {"used": list(parts.used), "missing": parts.missing, "texts": session.config.stash[TEXTS]}
        return
    if session.config.getoption("write_error_texts", False):
        text = error_texts.written(session.config.stash[TEXTS])
        error_texts.EXPECTED.write_text(text, encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("real parts")
    for line in config.stash[PARTS].statement():
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold what users are told by the tests of the faults and profiles to what was reviewed."""
    if not request.path.name.startswith(("test_faults_", "test_profiles")):
        yield
        return
    told = error_texts.listen(request, monkeypatch)
    yield
    title, texts = error_texts.title_of(request.node), sorted(told.texts)
    request.config.stash[TEXTS][title] = texts
    if not request.config.getoption("write_error_texts", False):
        assert texts == error_texts.expected().get(title, [])
        assert {text: list(error_texts.wrong_with(text)) for text in texts} == {text: [] for text in texts}


@pytest.fixture(scope="session")
def parts(request: pytest.FixtureRequest) -> RealParts:
    """`parts.require("docker", "skopeo")` skips the test where one is missing, or fails it where none may be."""
    return request.config.stash[PARTS]


@pytest.fixture(scope="session")
def workroot(isolated_session: None) -> Iterator[Path]:
    """A short-named directory for this session, gone afterwards."""
    with short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def authority(parts: RealParts, workroot: Path) -> Authority:
    parts.require("openssl")
    return make_authority(workroot / "authority")


@pytest.fixture(scope="session")
def start_registry(parts: RealParts, workroot: Path) -> Iterator[Callable[[RegistryOptions], RealRegistry]]:
    """A function that starts one more registry; all are stopped at the end of the session."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def start(options: RegistryOptions) -> RealRegistry:
            parts.require("registry", *(("htpasswd",) if options.users else ()))
            directory = workroot / f"registry-{next(numbers)}"
            return stack.enter_context(real_registry(directory, options))

        yield start


@pytest.fixture(scope="session")
def plain_registry(start_registry: Callable[[RegistryOptions], RealRegistry]) -> RealRegistry:
    """Plain HTTP, no login."""
    return start_registry(RegistryOptions())


@pytest.fixture(scope="session")
def users() -> dict[str, str]:
    """The users that `login_registry` and `token_registry` know."""
    return dict(USERS)


@pytest.fixture(scope="session")
def login_registry(
    start_registry: Callable[[RegistryOptions], RealRegistry], authority: Authority, users: dict[str, str]
) -> RealRegistry:
    """TLS and Basic login."""
    return start_registry(RegistryOptions(authority=authority, users=users))


@pytest.fixture(scope="session")
def tokens(authority: Authority, users: dict[str, str]) -> Iterator[TokenServer]:
    """The token server of `token_registry`, over TLS; anybody may pull."""
    with token_server(authority, tls=True, users=users) as server:
        yield server


@pytest.fixture(scope="session")
def token_registry(
    start_registry: Callable[[RegistryOptions], RealRegistry], authority: Authority, tokens: TokenServer
) -> RealRegistry:
    """TLS and Bearer login."""
    return start_registry(RegistryOptions(authority=authority, tokens=tokens))


@pytest.fixture(scope="session")
def docker(parts: RealParts, isolated_session: None) -> Iterator[DockerEngine]:
    parts.require("docker")
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(docker_engine())
        except StartError as error:
            parts.give_up("docker", str(error))
        yield engine


@pytest.fixture(scope="session")
def podman(parts: RealParts, isolated_session: None) -> Iterator[PodmanEngine]:
    parts.require("podman")
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(podman_engine())
        except AssertionError as error:
            parts.give_up("podman", str(error))
        yield engine


@pytest.fixture
def skopeo(parts: RealParts, tmp_path: Path) -> Tool:
    """`skopeo("inspect", …)`; it has no logins but those given on its command line."""
    parts.require("skopeo")
    return _tool("skopeo", tmp_path, "--tmpdir", str(tmp_path))


@pytest.fixture
def umoci(parts: RealParts, tmp_path: Path) -> Tool:
    parts.require("umoci")
    return _tool("umoci", tmp_path)


@pytest.fixture
def buildah(parts: RealParts, workroot: Path) -> Tool:
    """buildah with storage of its own; run with `--isolation chroot`."""
    parts.require("buildah")
    storage = ("--root", str(workroot / "buildah"), "--runroot", str(workroot / "buildah-run"))
    return _tool("buildah", workroot, *storage)


def _tool(name: str, home: Path, *fixed: str) -> Tool:
    def run(*arguments: str, check: bool = True) -> CompletedProcess[str]:
        return run_tool([command_path(name), *fixed, *arguments], env=clean_environment(home), check=check)

    return run


@pytest.fixture(scope="session")
def busybox_base(parts: RealParts, workroot: Path) -> base_images.BaseImage:
    """A base image of one static binary."""
    parts.require("busybox")
    try:
        return base_images.busybox_image(workroot / "busybox")
    except FileNotFoundError as error:
        parts.give_up("busybox", str(error))


@pytest.fixture(scope="session")
def debian_base(parts: RealParts, workroot: Path) -> base_images.BaseImage:
    """A base image with glibc; half a minute the first time on a machine, then from the cache."""
    parts.require("debootstrap")
    cached = base_images.debian_image(cache_directory())
    # buildah and Podman make an image name of the path, which allows no hidden directories.
    link = workroot / "debian"
    link.symlink_to(cached.layout)
    return dataclasses.replace(cached, layout=link)


@pytest.fixture(scope="session")
def golden_store_at_prefix(parts: RealParts) -> Iterator[Path]:
    """/opt/golden/store, read-only by agreement, where the golden packages' own paths are true."""
    with contextlib.ExitStack() as stack:
        try:
            store = stack.enter_context(golden_store.store_at_recorded_prefix(cache_directory()))
        except golden_store.NotWritableError as error:
            parts.give_up("golden store at its prefix", str(error))
        yield store


@pytest.fixture
def debian_corpus(parts: RealParts, tmp_path: Path) -> Callable[[int], debian_packages.Corpus]:
    """`debian_corpus(200)`: that many real packages in prefixes of their own, with `packages.toml`."""
    parts.require("debian-packages")

    def build(count: int) -> debian_packages.Corpus:
        try:
            return debian_packages.build_corpus(
                count, cache=cache_directory() / "packages", directory=tmp_path / "corpus"
            )
        except debian_packages.CorpusError as error:
            parts.give_up("debian-packages", str(error))

    return build


@pytest.fixture
def bench(plain_registry: RealRegistry) -> Iterator[FaultBench]:
    """The real registry behind the fault proxy."""
    with contextlib.ExitStack() as stack:
        yield FaultBench(plain_registry, stack)


@pytest.fixture(scope="session")
def certificates(parts: RealParts, workroot: Path) -> Certificates:
    """Certificates that nobody signed but themselves."""
    parts.require("openssl")
    directory = workroot / "self-signed"
    directory.mkdir()
    return Certificates(directory)
