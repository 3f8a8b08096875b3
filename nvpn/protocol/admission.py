"""By which keys and secret the datapath is to judge handshake messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nvpn.datapath.commands import SetAdmission
from nvpn.model.clock import Now
from nvpn.model.keys import PublicKey
from nvpn.protocol.cookies import CookieSecret
from nvpn.wire.constants import REKEY_TIMEOUT
from nvpn.wire.crypto import cookie_key, mac1_key

_NOBODY: Final = SetAdmission(None, None, None)


class DeviceAdmission:
    """Keeps a secret for cookies, and makes the command that tells of it.

    Args:
        tell: takes the command.
        random: gives that many random bytes, or raises OSError.
    """

    def __init__(
        self, tell: Callable[[SetAdmission], None], random: Callable[[int], bytes]
    ) -> None:
        self._tell = tell
        self._random = random
        self._public: PublicKey | None = None
        self._secret: CookieSecret | None = None
        self._is_open = True
        self.retry_at: int | None = None
        """When :meth:`retry` wants to be called: boot-clock nanoseconds; None for never."""

    def change_identity(self, public: PublicKey | None, now: Now) -> None:
        """Messages are for this key from now on, and for nobody without one."""
        self._public = public
        self._secret = None
        self._admit(now)

    def stop(self) -> None:
        """Let nobody in any more."""
        self._is_open = False
        self.retry_at = None
        self._tell(_NOBODY)

    def renew(self, now: Now) -> None:
        """A handshake message came: the secret may be due for another one.

        While none comes, no cookie is made, and an idle device need not wake up.
        """
        try:
            renewed = self._secret is not None and self._secret.renew(now.boot)
        except OSError:
            return
        if renewed:
            self._admit(now)

    def retry(self, now: Now) -> None:
        """Try again what failed for want of random bytes, if it is time."""
        if self.retry_at is not None and now.boot >= self.retry_at:
            self._admit(now)

    def _admit(self, now: Now) -> None:
        if not self._is_open:
            return
        self.retry_at = None
        if self._public is None:
            self._tell(_NOBODY)
            return
        try:
            secret = self._secret or CookieSecret(self._random, now.boot)
        except OSError:
            # Without a secret nobody could be asked for a cookie, so nobody is let in.
            self.retry_at = now.boot + REKEY_TIMEOUT
            self._tell(_NOBODY)
            return
        self._secret = secret
        self._tell(SetAdmission(mac1_key(self._public), cookie_key(self._public), secret.value))
