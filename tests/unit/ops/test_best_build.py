"""Of several builds the best one for a machine, and none for another architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.errors import PlatformError
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.spec import Spec
from oci_binpkg.ops.best_build import Builds, operating_system

ZEN2 = Arch("linux", "debian12", "zen2")


def build(
    target: str, os: str = "debian12", *, platform: str = "linux", version: str = "1", **parameters: bool
) -> Spec:
    letter = "abcdefgh"[sum(map(ord, target + os + version)) % 8]
    return Spec(
        "app",
        version,
        (letter + target.replace("_", "").replace("0", "o") + "x" * 32)[:32],
        Arch(platform, os, target),
        "",
        parameters,
        (),
        None,
    )


@pytest.mark.parametrize(("targets", "best"), [
    (("x86_64", "x86_64_v3", "zen4"), "x86_64_v3"),
    (("x86_64_v2", "zen", "x86_64_v3"), "zen"),
    (("x86_64", "aarch64", "power9le"), "x86_64"),
    (("skylake_avx512", "x86_64_v2"), "x86_64_v2"),
])  # fmt: skip
def test_the_best_level_that_the_processor_has_is_taken(targets: tuple[str, ...], best: str) -> None:
    meant, choice = Builds(ZEN2).best([build(target) for target in targets])
    assert [spec.arch.target for spec in meant] == [best]
    assert choice is not None
    assert best in str(choice)


def test_this_system_goes_before_a_higher_level() -> None:
    meant, choice = Builds(ZEN2).best([build("zen2", "ubuntu24.04"), build("x86_64", "debian12")])
    assert [spec.arch.os for spec in meant] == ["debian12"]
    assert choice is not None


def test_builds_that_differ_in_more_than_the_architecture_are_not_chosen_from() -> None:
    meant, choice = Builds(ZEN2).best([build("x86_64"), build("zen2", version="2"), build("aarch64")])
    assert (len(meant), choice) == (2, None)
    meant, choice = Builds(ZEN2).best([build("x86_64", shared=True), build("zen2", shared=False)])
    assert (len(meant), choice) == (2, None)


@pytest.mark.parametrize(
    "other", [build("aarch64"), build("power9le"), build("neoverse_v1"), build("x86_64", platform="darwin")]
)
def test_another_architecture_is_refused_unless_it_is_asked_for(other: Spec) -> None:
    with pytest.raises(PlatformError, match="this machine is linux on zen2") as caught:
        Builds(ZEN2).check([build("x86_64"), other])
    assert "ask for the architecture" in caught.value.hint
    with pytest.raises(PlatformError):
        Builds(ZEN2).best([other, other])
    Builds(ZEN2, "any").check([other])


def test_an_architecture_that_is_asked_for_takes_the_place_of_the_machines() -> None:
    builds = [build("x86_64"), build("aarch64"), build("neoverse_n1")]
    meant, _ = Builds(ZEN2, "neoverse_n1").best(builds)
    assert [spec.arch.target for spec in meant] == ["neoverse_n1"]
    Builds(ZEN2, "aarch64").check(builds[1:])
    with pytest.raises(PlatformError):
        Builds(ZEN2, "aarch64").check(builds[:1])


def test_a_target_that_nobody_knows_is_what_its_parents_are() -> None:
    Builds(ZEN2).check(
        [Spec("app", "1", "a" * 32, Arch("linux", "debian12", "zen99x", ("zen4", "x86_64")), "", {}, (), None)]
    )


@pytest.mark.parametrize(("text", "name"), [
    ('ID=debian\nVERSION_ID="12"\n', "debian12"),
    ('ID=ubuntu\nVERSION_ID="22.04"\n', "ubuntu22.04"),
    ("ID='rhel'\nVERSION_ID='9.4'\n", "rhel9"),
    ('ID="amzn"\nVERSION_ID="2023"\n', "amazonlinux2023"),
    ("", ""),
])  # fmt: skip
def test_systems_have_the_names_that_spack_gives_them(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "os-release").write_text(text)
    assert operating_system(str(tmp_path / "os-release")) == name
    assert operating_system(str(tmp_path / "absent")) == ""
