"""An agent that means no good: it says hello as ours does, and then sends what it was given.

It stands in the place of an interpreter: hostile.py FRAMES, and then the words that start the loader.
When it has sent FRAMES, a file, it reads on until its client is gone.
"""

import json
import os
import re
import struct
import sys
from typing import Any


def get(size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data


def send(sync: bytes, data: bytes) -> None:
    for at in range(0, len(data), 4086):
        piece = data[at : at + 4086]
        os.write(1, sync + struct.pack(">H", len(piece)) + piece)


def main() -> None:
    frames, mark = sys.argv[1], next(word for word in sys.argv if word.startswith("slurmfutures:"))
    os.write(1, f"{mark} {'.'.join(map(str, sys.version_info[:3]))} 1\n".encode())
    get(int(get(12)))
    hello: Any = json.loads(get(int(get(12))))
    sync = bytes.fromhex(hello["sync"])
    words = {
        "op": "hello",
        "protocol": 3,
        "python": list(sys.version_info[:3]),
        "executable": sys.executable,
        "scheduler": "embedded",
        "work_dir": hello["work_dir"],
        "spool": "0" * 12,
        "exposed": "",
        "now": 0.0,
        "free": 1 << 40,
        "host": "host",
        "cwd": os.getcwd(),
        "home": "/",
        "pid": os.getpid(),
    }
    text = json.dumps(words).encode()
    send(sync, struct.pack(">BIQ", 1, len(text), 0) + text)
    # The name of the first batch, or of the first transfer, goes into the frames.
    asked = b""
    while not (found := re.search(rb'"(?:batch|transfer)":"([0-9a-f]{12})"', asked)):
        more = os.read(0, 1 << 16)
        if not more:
            return
        asked += more
    with open(frames, "rb") as file:
        data = file.read().replace(b"BATCH-OF-ITS", found[1])
    try:
        send(sync, data)
        while os.read(0, 1 << 16):
            pass
    except BrokenPipeError:
        pass


if __name__ == "__main__":
    main()
