"""Why something that a peer said on the channel was not heard."""

from __future__ import annotations

import enum


class ChannelDrop(enum.Enum):
    """The value is the name shown to operators."""

    # No packet, frame or message of ours.
    MALFORMED = "malformed"
    # A frame of a version that we do not speak.
    OTHER_VERSION = "other-version"
    # Parts of a message whose other parts did not come in time, or were pushed out.
    UNFINISHED = "unfinished"
    # More requests than a peer, or all of them, may make.
    RATE_LIMITED = "rate-limited"
    # A request while another of that peer is being answered.
    UNDER_WAY = "under-way"
    # An answer to nothing that we asked, or of another kind than the question has.
    NOT_ASKED = "not-asked"
