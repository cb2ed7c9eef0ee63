"""A line to a server that breaks, or falls silent, after so many bytes of an answer or of a request."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Line:
    port: int = 0
    """Where clients connect to."""
    answers: list[int] = field(default_factory=list)
    """After how many bytes answers on the next connections break off; those that come after are whole."""
    requests: list[int] = field(default_factory=list)
    """The same for requests."""
    held: int | None = None
    """After how many bytes all answers of a connection are held back, without an end."""
    answered: int = 0
    """Bytes that went to clients."""
    refused: int = 0
    """Connections while there was no server."""
    _open: list[socket.socket] = field(default_factory=list)

    def break_off(self) -> None:
        """Ends all connections, and holds no more answers back."""
        self.held = None
        for end in self._open:
            _close(end)


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    """Forwards to a port of this machine until the context ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = Line(listening.getsockname()[1])
        threading.Thread(target=_accept, args=(line, listening, port), daemon=True).start()
        yield line
        # Wakes the thread, which a closed socket alone does not.
        listening.shutdown(socket.SHUT_RDWR)


def _accept(line: Line, listening: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            try:
                server = socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                line.refused += 1
                client.close()
                continue
            request_limit = line.requests.pop(0) if line.requests else None
            answer_limit = line.answers.pop(0) if line.answers else None
            line._open += [client, server]
            threading.Thread(target=_ask, args=(client, server, request_limit), daemon=True).start()
            threading.Thread(target=_answer, args=(line, client, server, answer_limit), daemon=True).start()


def _ask(client: socket.socket, server: socket.socket, limit: int | None) -> None:
    for _ in _forwarded(client, server, limit):
        pass
    _close(client)
    _close(server)


def _answer(line: Line, client: socket.socket, server: socket.socket, limit: int | None) -> None:
    passed = 0
    for count in _forwarded(server, client, limit):
        passed += count
        line.answered += count
        if line.held is not None and passed > line.held:
            return
    _close(client)
    _close(server)


def _forwarded(source: socket.socket, sink: socket.socket, limit: int | None) -> Iterator[int]:
    """How many bytes went on, piece by piece, until the end or the limit."""
    left = limit
    with suppress(OSError):
        while left != 0 and (content := source.recv(1 << 16 if left is None else min(left, 1 << 16))):
            sink.sendall(content)
            if left is not None:
                left -= len(content)
            yield len(content)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
