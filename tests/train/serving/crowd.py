"""Many clients at once, in a process of their own: python -m tests.train.serving.crowd PORT COUNT prints their answers.

Every client opens a connection and waits until all have one; then each asks for a completion, and reads its answer.
"""

import asyncio
import collections
import json
import sys

BODY = json.dumps({"prompt": "abc", "max_tokens": 4}).encode()
ASK = (
    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


async def client(port, gate, ready, counts):
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        counts[f"connect: {error.strerror}"] += 1
        ready()
        return
    ready()
    await gate.wait()
    try:
        writer.write(ASK)
        answer = await reader.read(-1)
        head, _, body = answer.partition(b"\r\n\r\n")
        said = head.partition(b"\r\n")[0].decode() or "closed without an answer"
        if b" 200 " in head:
            said += f" {json.loads(body)['choices'][0]['text']}"
        elif b"retry-after: " in head.lower():
            said += ", retry-after"
        counts[said] += 1
    except OSError as error:
        counts[f"read: {error.strerror}"] += 1
    finally:
        writer.close()


async def crowd(port, count):
    counts, gate, left = collections.Counter(), asyncio.Event(), count

    def ready():
        nonlocal left
        left -= 1
        if not left:
            gate.set()

    await asyncio.gather(*(client(port, gate, ready, counts) for _ in range(count)))
    return counts


if __name__ == "__main__":
    print(json.dumps(asyncio.run(crowd(int(sys.argv[1]), int(sys.argv[2])))))
