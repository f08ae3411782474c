"""Many clients in one process, over plain sockets so that they take little of the machine. Prints JSON.

python clients.py HOST PORT CLIENTS SECONDS
"""

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter

HEAD = (
    "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    "Content-Length: {}\r\n\r\n"
)
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def client(host: str, port: int, number: int, end: float, seen: Counter) -> None:
    """Asks, waits, asks again; a connection that ends between answers ends the client."""
    reader, writer = await asyncio.open_connection(host, port)
    asked = 0
    while time.monotonic() < end:
        body = json.dumps({"prompt": f"a red circle {number % 7}", "seed": number * 1000 + asked, "n": 1})
        asked += 1
        try:
            writer.write((HEAD.format(len(body)) + body).encode())
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            # Nothing of an answer: the request came after the server had closed this connection.
            seen["cut" if getattr(error, "partial", b"") else "not taken"] += 1
            return
        status = head.split(b" ", 2)[1].decode()
        found = LENGTH.search(head)
        assert found is not None
        try:
            answer = await reader.readexactly(int(found[1]))
        except (asyncio.IncompleteReadError, ConnectionError):
            seen["cut"] += 1
            return
        seen[status] += 1
        if status == "200":
            assert len(json.loads(answer)["data"]) == 1
        else:
            await asyncio.sleep(0.5)
        if b"connection: close" in head.lower():
            return


async def main(host: str, port: int, clients: int, seconds: float) -> None:
    seen: Counter = Counter()
    began = time.monotonic()
    tasks = [client(host, port, number, began + seconds, seen) for number in range(clients)]
    await asyncio.gather(*tasks)
    used = os.times()
    told = {"seen": seen, "seconds": time.monotonic() - began, "cpu": used.user + used.system}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
