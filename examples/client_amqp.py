import sys

from gpufleet import Client

if len(sys.argv) < 2:
    sys.exit("usage: python client_amqp.py amqp://USER:PASSWORD@HOST [PREFIX]")
with Client(sys.argv[1], prefix=sys.argv[2] if len(sys.argv) > 2 else "gpufleet") as client:
    handles = client.submit_many([("shout", {"text": text}) for text in ("over", "amqp")], priority=5)
    print(*(handle.result(timeout=60).value for handle in handles))
