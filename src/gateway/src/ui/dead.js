// Dead letters: messages that could not be tasks, and tasks that were given up.

import { get, part as pathPart, query, send } from "./api.js";
import { h } from "./dom.js";
import { bytes, count, many, short } from "./format.js";
import * as live from "./live.js";
import { act, button, cell, confirm, facts, number, panel, repeat, row, table, taskLink, verbatim } from "./parts.js";

const LISTED = 100;
// A list takes the letters in hand at the broker for a moment: not too often.
const EVERY_MS = 30_000;

export function dead(content, scope) {
  const part = panel("Dead letters, the oldest first", button("Look again", () => load(), { label: "Look for dead letters again" }));
  part.node.classList.add("wide");
  content.append(part.node);
  let present = null;
  const load = repeat(scope, EVERY_MS, async (signal) => {
    try {
      const list = await get(`/api/v1/dead${query({ limit: LISTED })}`, { signal });
      present = list.present;
      showLetters(part, list, load);
    } catch (problem) {
      if (!signal.aborted) {
        part.failed(problem, load);
      }
    }
  });
  scope.onClose(
    live.on("overview", (body) => {
      if (present !== null && body.dead !== undefined && body.dead !== present) {
        present = body.dead;
        void load();
      }
    }),
  );
}

function showLetters(part, { present, letters }, load) {
  if (letters.length === 0) {
    part.empty("There are no dead letters.");
    return;
  }
  const first = present > letters.length ? ` The first ${count(letters.length)} are shown.` : "";
  part.show(
    h("p", {}, h("b", {}, many(Math.max(present, letters.length), "dead letter")), ".", first),
    h("p", { class: "actions" }, button("Requeue all …", () => requeueAll(present, load)), button("Purge all …", () => purgeAll(present, load), { tone: "danger" })),
    table(
      "Dead letters, the oldest first",
      ["Task", "Kind", ["Priority", "number"], "Reason", ["Attempt", "number"], ["Size", "number"], "Actions"],
      letters.flatMap((letter, index) => {
        const key = `${letter.task_id}-${index}`;
        const id = letter.task_id;
        return [
          row(
            key,
            id === "" ? h("span", { class: "quiet" }, "without an id") : taskLink(id),
            cell(letter.kind === null ? "–" : short(letter.kind, 64)),
            number(letter.priority ?? "–"),
            cell([letter.reason === null ? "–" : short(letter.reason, 300), h("details", {}, h("summary", {}, "History and payload"), letterBody(letter))], "text"),
            number(letter.attempt ?? "–"),
            number(bytes(letter.body_bytes)),
            cell(id === "" ? h("span", { class: "quiet" }, "only with all") : h("span", { class: "actions" }, letterActions(id, load))),
          ),
        ];
      }),
    ),
  );
}

// What is known of a letter beside its reason.
export function letterBody(letter) {
  const history = letter.history ?? [];
  return h(
    "div",
    {},
    history.length > 0 ? h("ol", { "aria-label": "What became of its attempts" }, history.map((one, index) => h("li", { key: index }, one))) : h("p", { class: "quiet" }, "It has no history of attempts."),
    facts(["Reply to", letter.reply_to], ["Correlation id", letter.correlation_id], ["Unreadable", letter.unreadable], ["Segments", letter.segments?.length > 0 ? many(letter.segments.length, "segment") : null]),
    verbatim("Payload as it came", letter.body),
  );
}

export function letterActions(id, load) {
  const name = short(id, 60);
  return [button("Requeue", () => requeue(id, load), { label: `Requeue ${name}` }), button("Purge", () => purge(id, load), { tone: "danger", label: `Purge ${name}` })];
}

function kept(answer) {
  return answer.kept.length === 0 ? "" : ` ${count(answer.kept.length)} stay: ${short(answer.kept.map((one) => `${one.task_id || "without an id"}: ${one.why}`).join("; "), 300)}`;
}

async function requeue(id, load) {
  await act(async () => {
    const answer = await send("POST", `/api/v1/dead/${pathPart(id)}/requeue`);
    await Promise.all([load(), live.refresh()]);
    return `${many(answer.requeued, "letter")} of ${short(id, 80)} requeued.${kept(answer)}`;
  });
}

async function purge(id, load) {
  if (!(await confirm({ title: `Purge the dead letter of ${short(id, 80)}?`, text: "Its payload is deleted for good.", action: "Purge it" }))) {
    return;
  }
  await act(async () => {
    const { purged } = await send("DELETE", `/api/v1/dead/${pathPart(id)}`);
    await Promise.all([load(), live.refresh()]);
    return `${many(purged, "letter")} of ${short(id, 80)} purged.`;
  });
}

async function requeueAll(present, load) {
  if (!(await confirm({ title: `Requeue all ${many(present, "dead letter")}?`, text: "Each becomes a task again, also those that came meanwhile. What made them fail may make them fail again.", action: `Requeue ${many(present, "letter")}`, tone: "primary" }))) {
    return;
  }
  await act(async () => {
    const answer = await send("POST", "/api/v1/dead?requeue=all");
    await Promise.all([load(), live.refresh()]);
    return `${many(answer.requeued, "letter")} requeued.${kept(answer)}`;
  });
}

async function purgeAll(present, load) {
  if (!(await confirm({ title: `Purge all ${many(present, "dead letter")}?`, text: "Their payloads are deleted for good, also of those that came meanwhile.", action: `Purge ${many(present, "letter")}` }))) {
    return;
  }
  await act(async () => {
    const { purged } = await send("DELETE", "/api/v1/dead?all=true");
    await Promise.all([load(), live.refresh()]);
    return `${many(purged, "letter")} purged.`;
  });
}
