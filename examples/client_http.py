import sys

from gpufleet import Client, ClientError, TaskFailed

if len(sys.argv) != 2:
    sys.exit("usage: python client_http.py http://HOST:PORT")
with Client(sys.argv[1]) as client:
    print(client.submit("shout", {"text": "over http"}).result(timeout=60).value)
    for event in client.submit("spell", {"text": "abc"}, stream=True).stream(timeout=60):
        print(event)
    try:
        client.submit("shout", {"text": 1}).result(timeout=60)
    except (ClientError, TaskFailed) as error:  # By the gateway, if it checks payloads, or by a worker.
        print(error.field)
