"""A relay between a client and a server on loopback, which can be cut and can lose answers."""

from __future__ import annotations

import asyncio


class Relay:
    """Listens on ``port`` and passes everything to ``to``.

    ``answers_to_lose`` connections are cut when the next bytes of the server come: what was
    asked for has been done then, and nobody hears of it.
    """

    def __init__(self, to: int, port: int) -> None:
        self.answers_to_lose = 0
        self._to = to
        self._port = port
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, and take no new ones."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def join(self) -> None:
        """Take connections again."""
        self._is_cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(
                self._pass_on(reader, back), self._pass_on(there, writer, may_lose=True)
            )
        except OSError:
            pass
        finally:
            for one in (writer, back):
                one.transport.abort()
                self._writers.discard(one)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        may_lose: bool = False,
    ) -> None:
        while data := await reader.read(1 << 16):
            if may_lose and self.answers_to_lose:
                self.answers_to_lose -= 1
                break
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
