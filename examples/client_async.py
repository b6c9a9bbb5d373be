import asyncio
import sys

from gpufleet import AsyncClient


async def main() -> None:
    options = {"prefix": sys.argv[2]} if len(sys.argv) > 2 else {}
    async with AsyncClient(sys.argv[1], **options) as client:
        handles = await client.submit_many([("shout", {"text": text}) for text in ("all", "at", "once")])
        results = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
        print(*(result.value for result in results))


if len(sys.argv) < 2:
    sys.exit("usage: python client_async.py http://HOST:PORT|amqp://USER:PASSWORD@HOST [PREFIX]")
asyncio.run(main())
