"""Foreign names in messages, and names of classes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.names import is_class_name, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("backbone.conv1.weight", "backbone.conv1.weight"),
        ("a\n\x1b[2J", "a\\n\\x1b[2J"),
        ("\u202egnp", "\\u202egnp"),
        ("사람 é", "사람 é"),
        ("", ""),
        (7, "7"),
        ("a" * 100, "a" * 100),
        ("a" * 101, "a" * 100 + "…"),
        ("\x1b" * 100, "\\x1b" * 25 + "…"),
    ],
)
def test_a_foreign_name_is_shown_on_one_line(name, shown):
    assert printable(name) == shown


@given(st.text(max_size=50), st.integers(1, 40))
def test_what_is_shown_prints_and_is_short(name, most):
    assert printable(name, most).isprintable()
    assert len(printable(name, most)) <= most + 1


@pytest.mark.parametrize("name", ["cat", "traffic light", "사람", "a" * 200, "زن‌ها", "👩‍🚀", "0"])
def test_names_of_classes(name):
    assert is_class_name(name)


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "a\x00", "a\u2028b", "\u202ea", "a" * 201, "\ud800"])
def test_what_no_class_is_called(name):
    assert not is_class_name(name)
