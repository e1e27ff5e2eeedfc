"""An archive that does not record its prefixes is refused: nothing could tell which of its paths have to be changed."""

import pytest

from tests.support.command_line import binpkg
from tests.support.made_layouts import Package, layout, node

PREFIX = "/opt/old/x/tool"


@pytest.mark.covers("P01")
@pytest.mark.parametrize("members", [{"hash_to_prefix": {}}, {"hash_to_prefix": {}, "prefix_to_hash": {}}])
@pytest.mark.parametrize("place", ["tool", "app"])
def test_an_archive_without_its_prefixes_is_refused(members, place, tmp_path):
    tool = node("tool")
    bad = Package(tool, prefix=PREFIX, distribution=members)
    cache = layout(tmp_path / "c", [bad, Package(node("app", needs=[tool]), [tool])])
    ended = binpkg("install", place, "--from", cache.name, "--store", tmp_path / "s")
    assert ended.code not in (0, 70)
    assert "the layer of tool@1.3" in ended.err
    assert "does not record its prefixes" in ended.err
    assert "push the package anew" in ended.err
    assert not list(tmp_path.glob("s/linux-*/*"))


@pytest.mark.covers("P01")
def test_the_older_form_of_the_record_is_as_good(tmp_path):
    tool = node("tool")
    old = {"hash_to_prefix": {}, "prefix_to_hash": {PREFIX: tool["hash"]}}
    cache = layout(tmp_path / "c", [Package(tool, prefix=PREFIX, distribution=old)])
    ended = binpkg("install", "tool", "--from", cache.name, "--store", tmp_path / "s")
    assert ended.code == 0, ended.err
