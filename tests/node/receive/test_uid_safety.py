from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.node.records.instances import UnsafeUidError, checked_uid, instance_file_name

DIGEST = "0123456789abcdef" * 4

valid_uids = st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=6).map(lambda n: ".".join(map(str, n)))


BAD_UIDS = (
    *("", " ", "../../etc/passwd", "..", ".", "1..2", ".1", "1.", "1.02.3", "00", "1.2/3", "1.2\\3"),
    *("1.2\x003", "1.a", "-1.2", "1.2\n", "１.２", "1." + "2" * 63, "~", "1.2 3"),
)


@pytest.mark.parametrize("uid", BAD_UIDS)
def test_a_uid_that_ps35_does_not_allow_is_refused_without_being_quoted(uid: str) -> None:
    with pytest.raises(UnsafeUidError) as caught:
        checked_uid(uid, "SOPInstanceUID")
    assert caught.value.keyword == "SOPInstanceUID"
    assert len(uid) < 3 or uid not in str(caught.value)


@pytest.mark.parametrize("uid", ["0", "1", "1.0.0", "2.25.329800735698586629295641978511506172918", "9" * 64])
def test_odd_but_valid_uids_are_taken(uid: str) -> None:
    assert checked_uid(uid, "SOPInstanceUID") == uid


def test_padding_of_the_network_is_no_part_of_a_uid() -> None:
    assert checked_uid("1.2.3\0", "SOPInstanceUID") == "1.2.3"


@given(valid_uids)
def test_a_file_name_is_one_plain_path_component(uid: str) -> None:
    name = instance_file_name(uid, DIGEST)
    assert re.fullmatch(r"[0-9][0-9.]*_[0-9a-f]{32}\.dcm", name)
    assert ".." not in name


@given(st.text(max_size=80))
def test_no_text_gets_past_the_check_with_anything_but_digits_and_dots(text: str) -> None:
    try:
        uid = checked_uid(text, "SOPInstanceUID")
    except UnsafeUidError:
        return
    assert re.fullmatch(r"[0-9.]{1,64}", uid)
    assert ".." not in uid


def test_a_digest_that_is_none_never_becomes_a_name() -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        instance_file_name("1.2.3", "../" * 20)
