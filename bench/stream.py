"""One TCP stream with Python's own sockets, for machines without iperf3.

``python -m bench.stream serve`` takes one stream and ends; ``send ADDRESS SECONDS`` sends it and prints the
rate in the form that iperf3 has for it.
"""

from __future__ import annotations

import json
import socket
import sys
import time

PORT = 5201
CHUNK = 1 << 20


def serve() -> None:
    """Receive one stream, and send the sender the number of bytes."""
    with socket.create_server(("", PORT)) as listener:
        print("listening", flush=True)
        connection, _ = listener.accept()
    with connection:
        buffer, received = bytearray(CHUNK), 0
        while count := connection.recv_into(buffer):
            received += count
        connection.sendall(str(received).encode())


def send(address: str, seconds: float) -> None:
    """Send for so long, and print the rate at which it was received."""
    data = bytes(CHUNK)
    with socket.create_connection((address, PORT)) as connection:
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = int(connection.recv(CHUNK))
        rate = received * 8 / (time.perf_counter() - begun)
    print(json.dumps({"end": {"sum_received": {"bits_per_second": rate}}}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        send(sys.argv[2], float(sys.argv[3]))
