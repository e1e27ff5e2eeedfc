"""The front door: what a script gets without a shell."""

from __future__ import annotations

import pytest

from oci_binpkg.client import Client
from oci_binpkg.config.settings import load_settings
from oci_binpkg.ops.install import Installed
from oci_binpkg.ops.push_report import PushOutcome
from tests.support.fake_registry import FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree


@pytest.fixture
def settings(tmp_path):
    return load_settings({"HOME": str(tmp_path / "home")})


@pytest.fixture
def tree(tmp_path):
    spack_tree(
        tmp_path / "opt", [Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}), Sketch("greet", "2.0", depends=["zlib"])]
    )
    return tmp_path / "opt"


@pytest.fixture(params=["layout", "registry"])
def cache(request, tmp_path):
    if request.param == "layout":
        yield f"oci-layout:{tmp_path}/cache"
        return
    with FakeRegistry() as registry:
        yield f"oci+http://{registry.host}/apps"


def test_the_script_of_a_reader(settings, tree, cache, tmp_path):
    client = Client(config=settings)
    report = client.push(cache, str(tree), ["greet@2.0"], update_index=True)
    assert report.exit_code == 0
    assert report.index_written
    assert [each.spec.name for each in report.by(PushOutcome.PUSHED)] == ["zlib", "greet"]
    found = [(package.name, package.version, len(package.hash)) for package in client.find("zlib", cache=cache)]
    assert found == [("zlib", "1.3", 32)]
    installed = client.install(cache, ["greet"], root=tmp_path / "apps")
    assert [each.spec.name for each in installed.by(Installed.INSTALLED)] == ["zlib", "greet"]
    assert sorted(each.name for each in client.find(store=tmp_path / "apps")) == ["greet", "zlib"]
    assert all(each.is_good for each in client.verify_store(tmp_path / "apps"))
