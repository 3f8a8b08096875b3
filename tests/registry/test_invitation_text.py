"""Invitations as text: short, checked, and clear about what is wrong."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.config.model import HostPort
from nvpn.model.clock import SECOND
from nvpn.model.keys import PrivateKey
from nvpn.registry.invitation_text import InvitationText, format_invitation, parse_invitation
from tests.support.registry import WALL, key_of

SECRET = PrivateKey(bytes(range(32)))
SAMPLE = InvitationText(
    key_of(1), SECRET, WALL + 86_400 * SECOND, (HostPort("vpn.example", 51820),), "laptop"
)
TEXT = format_invitation(SAMPLE)


def refusal(text: str, *, wall: int = WALL) -> str:
    with pytest.raises(ValueError) as caught:
        parse_invitation(text, wall=wall)
    assert SECRET.reveal_base64() not in str(caught.value)
    return str(caught.value)


def test_an_invitation_comes_back_as_it_was() -> None:
    assert parse_invitation(TEXT, wall=WALL) == SAMPLE


def test_it_fits_a_line_and_a_word() -> None:
    assert TEXT.startswith("nvpn:")
    assert len(TEXT) < 150
    assert not set(TEXT) & set(" \n+/=\"'<>")


def test_its_form_is_this_one_for_ever() -> None:
    assert TEXT == (
        "nvpn:AQBhkRCrpNWR3Ptnr8GoGUosLmnLmVVkRIbn2b3OS0nGp3MAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY"
        "GRobHB0eX2VVQoABAAt2cG4uZXhhbXBsZcpsbGFwdG9w5vz__w"
    )


@pytest.mark.parametrize("width", [20, 64, 76])
def test_mail_may_break_it_into_lines(width: int) -> None:
    broken = "\r\n  ".join(TEXT[at : at + width] for at in range(0, len(TEXT), width))
    assert parse_invitation(f"  <{broken}>\n", wall=WALL) == SAMPLE
    assert parse_invitation(TEXT.replace("nvpn:", "NVPN:"), wall=WALL) == SAMPLE


def test_every_kind_of_endpoint_comes_back() -> None:
    endpoints = (
        HostPort("192.0.2.1", 1),
        HostPort("2001:db8::1", 65535),
        HostPort("a.b-c_d.example", 51820),
    )
    text = format_invitation(InvitationText(key_of(2), SECRET, WALL * 2, endpoints, "Zoë 📱"))
    assert parse_invitation(text, wall=WALL).endpoints == endpoints
    assert parse_invitation(text, wall=WALL).name == "Zoë 📱"


def test_a_cut_one_says_so_wherever_it_was_cut() -> None:
    for end in range(len("nvpn:"), len(TEXT)):
        assert "missing" in refusal(TEXT[:end]) or "nothing follows" in refusal(TEXT[:end]), end


def test_one_mistyped_character_is_noticed() -> None:
    for at in range(len("nvpn:"), len(TEXT)):
        typo = "A" if TEXT[at] != "A" else "B"
        wrong = TEXT[:at] + typo + TEXT[at + 1 :]
        assert refusal(wrong), at
    assert "mistake" in refusal(TEXT[:60] + "AAAA" + TEXT[64:])
    assert "mistake" in refusal(TEXT[:60] + "!" + TEXT[61:])


def test_an_expired_one_says_when() -> None:
    text = refusal(TEXT, wall=SAMPLE.expires_at)
    assert text == "this invitation expired on 2023-11-15 at 22:13 UTC: ask for a new one"


@pytest.mark.parametrize(
    "text", ["", "hello", "https://vpn.example/", "wg://x", "nvpn", "x" * 9999]
)
def test_foreign_text_is_no_invitation(text: str) -> None:
    assert "no invitation" in refusal(text)


def test_one_with_something_after_it_says_so() -> None:
    assert "follows" in refusal(TEXT + "abcdefgh")


def test_one_of_a_later_version_says_what_to_do() -> None:
    data = bytearray(base64.urlsafe_b64decode(TEXT[5:] + "=" * (-len(TEXT[5:]) % 4)))
    data[0] = 2
    assert "newer nvpn" in refusal("nvpn:" + base64.urlsafe_b64encode(data).decode())


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"endpoints": ()}, "endpoints"),
        ({"endpoints": (HostPort("a", 1),) * 9}, "endpoints"),
        ({"endpoints": (HostPort("fe80::1%eth0", 1),)}, "host"),
        ({"endpoints": (HostPort("ä.example", 1),)}, "host"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a" * 65}, "name"),
    ],
)
def test_what_cannot_be_told_is_refused_before_it_is_sent(
    changed: dict[str, object], word: str
) -> None:
    fields = {name: getattr(SAMPLE, name) for name in InvitationText.__slots__}
    with pytest.raises(ValueError, match=word):
        format_invitation(InvitationText(**{**fields, **changed}))  # type: ignore[arg-type]


def test_its_repr_hides_the_secret() -> None:
    assert "hidden" in repr(SAMPLE)
    assert SECRET.reveal_hex() not in repr(SAMPLE)


@given(st.binary(max_size=200))
def test_whatever_is_inside_only_a_sentence_comes_out(body: bytes) -> None:
    # With a right length and CRC, so that the rest is read.
    data = b"\x01" + (3 + len(body) + 4).to_bytes(2, "big") + body
    data += zlib.crc32(data).to_bytes(4, "big")
    try:
        parse_invitation("nvpn:" + base64.urlsafe_b64encode(data).decode(), wall=0)
    except ValueError as error:
        assert str(error)


@given(st.text(max_size=60))
def test_whatever_text_it_is_only_a_sentence_comes_out(text: str) -> None:
    for one in (text, "nvpn:" + text):
        with pytest.raises(ValueError):
            parse_invitation(one, wall=WALL)
