"""A layer that is read once tells its diff_id, prefix and folders."""

import io

import pytest

from oci_binpkg.archive.extract import survey_layer
from oci_binpkg.errors import ContentError
from tests.support import golden


@pytest.mark.parametrize("package", golden.packages(), ids=lambda package: package.name)
def test_golden_layers_tell_what_their_configs_say(package):
    found = survey_layer(io.BytesIO(golden.read_blob(package.layer_digest)), package.name)
    assert str(found.diff_id) == str(package.diff_id)
    assert found.prefix == package.recorded
    assert "bin" in found.directories
    assert package.hash in found.distribution.hash_to_prefix


def test_a_layer_of_something_else_is_refused():
    import gzip
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    with pytest.raises(ContentError, match="no document"):
        survey_layer(io.BytesIO(gzip.compress(out.getvalue())), "odd")


def test_a_cut_layer_is_refused():
    data = golden.read_blob(golden.packages()[0].layer_digest)
    with pytest.raises(ContentError):
        survey_layer(io.BytesIO(data[:-20]), "cut")
