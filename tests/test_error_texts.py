"""What users are told by faults and registries, as it was reviewed, keeps the rules; and the rules notice what breaks them."""

import pytest
from tools import error_texts


def test_every_text_keeps_the_rules():
    found = {title: [(text, list(error_texts.wrong_with(text))) for text in texts]
             for title, texts in error_texts.expected().items()}  # fmt: skip
    assert len(found) > 60
    assert {title: wrong for title, texts in found.items() if (wrong := [each for each in texts if each[1]])} == {}


GOOD = "download DIGEST from HOST/REPOSITORY: HOST answered HTTP 403 (DENIED)"


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("ServerError, exit 25\nHOST/REPOSITORY: HOST answered HTTP 500\n  try again later", "what was attempted"),
        ("ServerError, exit 25\ndownload DIGEST from REPOSITORY: more than SIZE are sent\n  push it", "the host"),
        ("ServerError, exit 25\nGET HOST: HOST answered HTTP 500\n  try again later", "the repository, digest or file"),
        (f"ServerError, exit 25\n{GOOD}", "a next step"),
        (f"ServerError, exit 25\n{GOOD}\n  try this\n  and that", "a single next step"),
        (f"ServerError, exit 25\n{GOOD}\n  name it in the settings", "the key that is to be set"),
        (f"ServerError, exit 25\n{GOOD}\n  set `insecure_hosts` in the settings", "a key that there is"),
        (f"ServerError, exit 25\n{GOOD}\n  the fault is on the server's side: try again later", "a step other than"),
        (
            f"ServerError, exit 25\n{GOOD}\n  log in with `oci-binpkg login HOST`",
            "a step that has to do with the login",
        ),
        (f"DeniedError, exit 23\n{GOOD}\n  Ask somebody.", "a step written like the others"),
        (f"DeniedError, exit 23\n{GOOD}: None\n  ask somebody", "words for people"),
        (f"DeniedError, exit 23\n{GOOD}{'x' * 500}\n  ask somebody", "brevity"),
    ],
)
def test_what_breaks_a_rule_is_noticed(text, lacks):
    assert any(each.startswith(lacks) for each in error_texts.wrong_with(text))
    assert list(error_texts.wrong_with(f"DeniedError, exit 23\n{GOOD}\n  ask somebody")) == []
