"""Speaks to an etcd's JSON gateway: one request, its answer, and whose fault it is.

Keys and values travel in base64, numbers of 64 bits as strings, and what is zero or false is
left out. A user's token is asked for when it is needed, and again when it has run out.

Source: etcd 3.4, Documentation/dev-guide/api_grpc_gateway.md; rpc.proto.
"""

from __future__ import annotations

import base64
import json
import logging
import ssl
from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple

from nvpn.config.model import StoreConfig
from nvpn.errors import PlatformError, Refused, ServiceError, Unavailable
from nvpn.resilience.within import within

try:
    import httpx
except ImportError:
    raise PlatformError(
        'load httpx, which store = "etcd" needs', hint="try: pip install 'nvpn[etcd]'"
    ) from None

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 3.0

SILENCE_SECONDS: Final = 60.0
"""A watch that says nothing for so long is begun anew: the server may have died quietly."""

WHOLE_SECONDS: Final = 30.0
"""For all of an answer: it may hold ten thousand clients."""

MAX_ANSWER: Final = 256 << 20
MAX_LINE: Final = 16 << 20
"""Bytes of an answer, and of one answer of a watch: more is none that we want to hold."""

_MAX_CONNECTIONS: Final = 12

# gRPC's numbers for what went wrong (google.golang.org/grpc/codes).
_INVALID_ARGUMENT: Final = 3
_NOT_FOUND: Final = 5
_PERMISSION_DENIED: Final = 7
_FAILED_PRECONDITION: Final = 9
_OUT_OF_RANGE: Final = 11
_UNAUTHENTICATED: Final = 16
_ANSWERS: Final = frozenset(
    {_INVALID_ARGUMENT, _NOT_FOUND, _PERMISSION_DENIED, _FAILED_PRECONDITION, _OUT_OF_RANGE}
)
_STALE_TOKEN: Final = ("invalid auth token", "auth store is old")

# httpx tells every request at INFO.
logging.getLogger("httpx").setLevel(logging.WARNING)


class LeaseNotFound(Refused):
    """An etcd lease has run out, or the etcd is another one than it was."""


class _TokenInvalid(Unavailable):
    """The token has run out, or was given by a server that was started anew since."""


class _Answer(NamedTuple):
    status: int
    body: Any


class EtcdGateway:
    """A client of one cluster. The server that answered last is asked first."""

    def __init__(self, config: StoreConfig) -> None:
        self._config: Final = config
        self._endpoints: Final = list(config.etcd)
        self._token = ""
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=None)
        self._client: Final = httpx.AsyncClient(
            verify=_tls(config),
            # A proxy of the environment is for the web, and would see who is leased what.
            trust_env=False,
            timeout=timeout,
            limits=httpx.Limits(
                max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS
            ),
        )

    def describe(self) -> str:
        """The servers, without anything secret."""
        return ", ".join(str(httpx.URL(one).copy_with(userinfo=b"")) for one in self._endpoints)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, from whichever server gives one.

        Raises:
            Unavailable: none did; what was asked for may have been done, or not.
            Refused: etcd says no, in its words.
        """
        try:
            await self._log_in()
            return await self._ask(path, body)
        except _TokenInvalid:
            self._token = ""
            await self._log_in()
            return await self._ask(path, body)

    async def stream(
        self, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The answers of one long request, as they come.

        It ends when the server ends it. Raises as ``ask`` does.
        """
        await self._log_in()
        endpoint = self._endpoints[0]
        try:
            async with self._client.stream(
                "POST",
                endpoint + path,
                json=body,
                headers=self._headers(),
                timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            ) as response:
                if response.status_code != 200:
                    self._check(_answer(response.status_code, await anext(_lines(response))))
                async for line in _lines(response):
                    if line.strip():
                        yield _checked_line(line)
        except httpx.ReadTimeout:
            return
        except _TokenInvalid:
            self._token = ""
            raise
        except ServiceError:
            raise
        except Exception as error:
            self._try_another(endpoint)
            raise _no_answer(endpoint, error) from None

    # --- details ----------------------------------------------------------------------------

    async def _log_in(self) -> None:
        if self._token or not self._config.user:
            return
        body = {"name": self._config.user, "password": self._config.password.reveal()}
        answer = await self._ask("/v3/auth/authenticate", body)
        token = answer.get("token")
        if not isinstance(token, str):
            raise Unavailable("etcd gave no token for the user and password")
        self._token = token

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        failure = Unavailable("there is no etcd to ask")
        for endpoint in tuple(self._endpoints):
            try:
                answer = await self._post(endpoint, path, body)
                self._check(answer)
            except _TokenInvalid:
                raise
            except Unavailable as error:
                failure = error
            else:
                if not isinstance(answer.body, dict):
                    raise Unavailable("etcd answered something that is no JSON object")
                return answer.body
            self._try_another(endpoint)
        raise failure

    async def _post(self, endpoint: str, path: str, body: dict[str, Any]) -> _Answer:
        try:
            return await within(WHOLE_SECONDS, self._exchange(endpoint + path, body))
        except Unavailable:
            raise
        except Exception as error:
            # Not only httpx.HTTPError: what ssl and anyio raise comes through here and there.
            raise _no_answer(endpoint, error) from None

    async def _exchange(self, url: str, body: dict[str, Any]) -> _Answer:
        headers, data = self._headers(), bytearray()
        async with self._client.stream("POST", url, json=body, headers=headers) as response:
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > MAX_ANSWER:
                    raise Unavailable("etcd answers without an end")
        return _answer(response.status_code, data)

    def _remedy(self, words: str) -> str:
        user = self._config.user
        if "authentication failed" in words:
            return f"; see etcd_user, which is {user!r}, and etcd_password_file"
        if "permission denied" in words:
            prefix = self._config.prefix
            return f"; the user {user!r} has to be let read and write everything under {prefix}/"
        if "authentication is not enabled" in words:
            return "; leave out etcd_user, or have etcd ask for passwords"
        return ""

    def _try_another(self, endpoint: str) -> None:
        if self._endpoints[0] == endpoint:
            self._endpoints.append(self._endpoints.pop(0))

    def _check(self, answer: _Answer) -> None:
        """Raises Unavailable, LeaseNotFound, Refused or _TokenInvalid."""
        if answer.status == 200:
            return
        body = answer.body if isinstance(answer.body, dict) else {}
        code, words = body.get("code"), str(body.get("error", f"HTTP status {answer.status}"))
        if code == _UNAUTHENTICATED or any(one in words for one in _STALE_TOKEN):
            raise _TokenInvalid(f"etcd asks who we are: {words}")
        if "requested lease not found" in words:
            raise LeaseNotFound(words)
        if "user name is empty" in words:
            raise Refused("etcd wants a user and password: set etcd_user and etcd_password_file")
        if isinstance(code, int) and code in _ANSWERS:
            raise Refused(f"etcd refuses: {words}{self._remedy(words)}")
        raise Unavailable(f"etcd cannot answer now: {words}")


def encode(data: bytes) -> str:
    """A key or value as the gateway wants it."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """A key or value as the gateway gives it. Raises ValueError."""
    return base64.b64decode(text, validate=True)


def _tls(config: StoreConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca)
        if config.cert is not None:
            context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(one) for one in (config.ca, config.cert, config.key) if one)
        why = getattr(error, "strerror", None) or getattr(error, "reason", None) or "no PEM"
        raise PlatformError(f"read the certificates for etcd ({files})", hint=str(why)) from None
    return context


def _answer(status: int, data: bytes | bytearray) -> _Answer:
    try:
        return _Answer(status, json.loads(data))
    except (ValueError, RecursionError):
        return _Answer(status, None)


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes | bytearray, None]:
    """The lines of a body as they come, and what follows the last one."""
    rest = bytearray()
    async for chunk in response.aiter_bytes():
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield line
        if len(rest) > MAX_LINE:
            raise Unavailable("etcd tells something without an end")
    yield rest


def _checked_line(line: bytes | bytearray) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("result"), dict):
        raise Unavailable("etcd ended a watch with something that is no answer")
    result: dict[str, Any] = body["result"]
    return result


def _no_answer(endpoint: str, error: Exception) -> Unavailable:
    where = httpx.URL(endpoint).copy_with(userinfo=b"")
    return Unavailable(f"etcd at {where} does not answer: {str(error) or type(error).__name__}")
