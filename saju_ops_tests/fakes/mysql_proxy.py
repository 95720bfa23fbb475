"""A small proxy in front of a real MySQL or MariaDB server, which does what a multiplexing proxy or a Galera cluster
does: hands one session to several connections, or answers a statement with an error of its own."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

TLS = 0x0800
OK, ERROR, END, FILE = 0x00, 0xFF, 0xFE, 0xFB
QUIT = b"\x01"


@dataclass
class Proxy:
    """`shared`: every connection's statements go to the session of the first one. `forbidden`: a word of a statement,
    and the number and text of the error that it gets."""

    port: int
    shared: bool = False
    forbidden: dict[str, tuple[int, str]] = field(default_factory=dict)
    # Another statement in the place of one that begins so.
    replaced: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    first: socket.socket | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as server:
            if not _login(client, server):
                return
            self.first = self.first or server
            while True:
                number, command = _packet(client)
                if command[:1] == QUIT:
                    break
                text = command[1:].decode(errors="replace")
                self.asked.append(text)
                found = next((error for word, error in self.forbidden.items() if word in text), None)
                if found:
                    answer = b"\xff" + found[0].to_bytes(2, "little") + b"#HY000" + found[1].encode()
                    _send(client, number + 1, answer)
                    continue
                for begin, other in self.replaced.items():
                    command = command[:1] + other.encode() if text.startswith(begin) else command
                with self.turn:
                    _answer(client, self.first if self.shared else server, number, command)
            if self.first is server:
                threading.Event().wait(1)  # others use its session


def _login(client: socket.socket, server: socket.socket) -> bool:
    """The greeting without the offer of TLS, then whatever the two say to each other until the server has decided."""
    number, greeting = _packet(server)
    at = greeting.index(b"\0", 1) + 1 + 4 + 8 + 1
    flags = int.from_bytes(greeting[at : at + 2], "little") & ~TLS
    _send(client, number, greeting[:at] + flags.to_bytes(2, "little") + greeting[at + 2 :])
    _send(server, *_packet(client))
    while True:
        number, answer = _packet(server)
        _send(client, number, answer)
        if answer[0] in (OK, ERROR):
            return answer[0] == OK
        if answer != b"\x01\x03":  # what the server still wants to hear, unless the password was known already
            _send(server, *_packet(client))


def _answer(client: socket.socket, server: socket.socket, number: int, command: bytes) -> None:
    _send(server, number, command)
    number, packet = _packet(server)
    _send(client, number, packet)
    if packet[0] == FILE:
        while packet:  # the client's file, till an empty packet
            number, packet = _packet(client)
            _send(server, number, packet)
        number, packet = _packet(server)
        _send(client, number, packet)
    ends = 0 if packet[0] in (OK, ERROR, END) else 2
    while ends:
        number, packet = _packet(server)
        _send(client, number, packet)
        ends = 0 if packet[0] == ERROR else ends - (packet[0] == END and len(packet) < 9)


def _packet(source: socket.socket) -> tuple[int, bytes]:
    head = _read(source, 4)
    return head[3], _read(source, int.from_bytes(head[:3], "little"))


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


def _send(target: socket.socket, number: int, payload: bytes) -> None:
    target.sendall(len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    proxy: Proxy


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        with suppress(OSError):
            server.proxy.serve(self.request)


@contextmanager
def proxied(port: int, **how: Any) -> Iterator[tuple[Proxy, int]]:
    """The proxy, and the port on which it listens."""
    proxy = Proxy(port, **how)
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.proxy = proxy
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
