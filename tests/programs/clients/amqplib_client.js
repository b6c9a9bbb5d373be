// Publishes what the plan on standard input says, and prints each message that comes back as one line of JSON.
//
// The plan: url; direct (whether replies come by direct reply-to instead of an exclusive queue); publishes, each with exchange, routing_key,
// properties and body; expect, the number of messages to wait for.
"use strict";

const amqp = require("amqplib");
const fs = require("fs");

const DIRECT = "amq.rabbitmq.reply-to";

// amqplib's names of the properties.
const named = ({ correlation_id: correlationId, message_id: messageId, user_id: userId, ...rest }) => ({ correlationId, messageId, userId, ...rest });

async function main() {
  const plan = JSON.parse(fs.readFileSync(0, "utf8"));
  const connection = await amqp.connect(plan.url);
  const channel = await connection.createConfirmChannel();
  const replies = plan.direct ? DIRECT : (await channel.assertQueue("", { exclusive: true })).queue;

  let came = 0;
  const all = new Promise((resolve, reject) => {
    channel.on("error", reject);
    channel.on("return", (message) => reject(new Error(`not routed: ${message.fields.routingKey}`)));
    const show = (message) => {
      const { correlationId: correlation_id, headers } = message.properties;
      console.log(JSON.stringify({ correlation_id, headers, body: JSON.parse(message.content.toString()) }));
      came += 1;
      if (came === plan.expect) resolve();
    };
    channel.consume(replies, show, { noAck: true }).then(() => {
      for (const { exchange, routing_key, properties, body } of plan.publishes) {
        const options = { replyTo: replies, contentType: "application/json", persistent: true, mandatory: true, ...named(properties) };
        channel.publish(exchange, routing_key, Buffer.from(body), options);
      }
    }, reject);
  });
  await all;
  await channel.waitForConfirms();
  await connection.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
