"""Publishes what the plan on standard input says, and prints each message that comes back as one line of JSON.

The plan: url; direct (whether replies come by direct reply-to instead of an exclusive queue); publishes, each with exchange, routing_key,
properties and body; expect, the number of messages to wait for.
"""

import json
import sys

import pika

DIRECT = "amq.rabbitmq.reply-to"

plan = json.load(sys.stdin)
connection = pika.BlockingConnection(pika.URLParameters(plan["url"]))
channel = connection.channel()
replies = DIRECT if plan["direct"] else channel.queue_declare("", exclusive=True).method.queue
came = 0


def show(_channel, _method, properties, body):
    global came
    came += 1
    reply = {"correlation_id": properties.correlation_id, "headers": properties.headers, "body": json.loads(body)}
    print(json.dumps(reply), flush=True)


channel.basic_consume(replies, show, auto_ack=True)
channel.confirm_delivery()
for publish in plan["publishes"]:
    properties = pika.BasicProperties(reply_to=replies, content_type="application/json", delivery_mode=2, **publish["properties"])
    channel.basic_publish(publish["exchange"], publish["routing_key"], publish["body"].encode(), properties, mandatory=True)
while came < plan["expect"]:
    connection.process_data_events(time_limit=1)
connection.close()
