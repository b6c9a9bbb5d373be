// The fleet at a glance: what holds it back, what waits, what runs, and how that went.

import { query } from "./api.js";
import { h, patch } from "./dom.js";
import { count, duration, figure, many, measured } from "./format.js";
import { history } from "./history.js";
import * as live from "./live.js";
import { bar, cell, number, panel, row, table } from "./parts.js";

export function overview(content, scope) {
  const verdict = panel("What holds the fleet back");
  const now = panel("Now");
  const priorities = panel("Oldest waiting task by priority");
  const gpus = panel("GPUs");
  const kinds = panel("Kinds, over the last 15 minutes");
  const all = [verdict, now, priorities, gpus, kinds];
  verdict.node.classList.add("verdict", "wide");
  now.node.classList.add("wide");
  kinds.node.classList.add("wide");
  content.append(verdict.node, now.node, priorities.node, gpus.node, ...history(scope), kinds.node);

  // Said aloud when it changes, and not with every figure.
  const sentence = h("p", { class: "sentence", "aria-live": "polite" });
  scope.onClose(
    live.on("overview", (body) => {
      showVerdict(verdict, sentence, body);
      showNow(now, body);
      showPriorities(priorities, body.oldest_waiting);
      showGpus(gpus, body.gpus, body.scaling);
      showKinds(kinds, body.kinds);
    }),
  );
  scope.onClose(live.on("failed", (problem) => all.forEach((one) => one.failed(problem, live.refresh))));
}

const CAUSES = {
  nothing: "Nothing",
  too_few_gpus: "Too few GPUs",
  no_gpus: "No GPUs",
  memory: "Memory",
  model_loads: "Model loads",
  one_kind: "One kind",
  imbalance: "Imbalance",
  transfers: "Transfers",
  handler: "A handler",
  broker: "The broker",
  redis: "Redis",
  retries: "Retries",
  starvation: "Starvation",
  unusable_gpus: "Unusable GPUs",
  unserved: "Unserved tasks",
};

function showVerdict(part, sentence, { verdict, servers_away: away = [] }) {
  const fine = verdict.holdup === "nothing";
  patch(sentence, h("span", { class: `badge ${fine ? "good" : "warn"}` }, h("span", { "aria-hidden": "true" }, fine ? "✓" : "!"), " ", CAUSES[verdict.holdup] ?? verdict.holdup), " ", verdict.sentence);
  // Made once, so that screen readers follow it.
  sentence.opaque = true;
  const evidence = verdict.evidence.map((one) =>
    h("li", { key: one.what }, `${one.what}: `, h("b", {}, measured(one.value, one.unit)), one.limit === undefined ? null : h("span", { class: "quiet" }, ` (counts beyond ${measured(one.limit, one.unit)})`)),
  );
  const also = (verdict.also ?? []).map((text) => h("li", { key: text }, text));
  if (!sentence.isConnected) {
    part.show(sentence, h("div", {}));
  } else {
    part.fresh();
  }
  const rest = sentence.nextElementSibling;
  patch(
    rest,
    away.length > 0 ? h("div", { class: "trouble" }, h("strong", {}, "Servers: "), away.join("; ")) : null,
    evidence.length > 0 ? h("ul", { class: "evidence", "aria-label": `Evidence, from the last ${duration(verdict.window_ms)}` }, evidence) : h("p", { class: "quiet" }, `No cause was found in the last ${duration(verdict.window_ms)}.`),
    also.length > 0 ? h("div", {}, h("h3", {}, "Also"), h("ul", {}, also)) : null,
  );
}

function tile(name, value, unit, href, note) {
  const ofOne = value === "1" && unit.endsWith("s") && !unit.endsWith("/s");
  const figures = [h("b", {}, value), ` ${ofOne ? unit.slice(0, -1) : unit}`];
  return h("div", { key: name, class: "tile" }, h("dt", {}, href ? h("a", { href }, name) : name), h("dd", {}, figures, note ? h("small", {}, note) : null));
}

function states(...list) {
  return `#/tasks${query({ state: list })}`;
}

function showNow(part, body) {
  const { tasks, gpus, scaling } = body;
  const unknown = "the broker does not answer";
  part.show(
    h(
      "dl",
      { class: "tiles" },
      tile("In the queue", count(body.ready), "messages", states("waiting"), body.ready === undefined ? unknown : "ready at the broker"),
      tile("Waiting", count(tasks.waiting), "tasks", states("waiting"), tasks.delayed > 0 ? `and ${count(tasks.delayed)} delayed` : null),
      tile("Running", count(tasks.running), "tasks", "#/running"),
      tile("Retrying", count(tasks.retrying), "tasks", states("retrying"), `${figure(body.retried_per_s)} retries/s`),
      tile("Dead letters", count(body.dead), "letters", "#/dead", body.dead === undefined ? unknown : null),
      tile("Arriving", figure(body.arrived_per_s), "tasks/s", null, "over the last minute"),
      tile("Ending", figure(body.ended_per_s), "tasks/s", null, "over the last minute"),
      tile("Slots held", `${count(gpus.held)} of ${count(gpus.slots)}`, "slots", "#/gpus"),
      tile("Desired workers", count(scaling.desired_workers), "workers", null, `${count(scaling.workers)} take tasks now`),
      body.parked_replies > 0 ? tile("Parked replies", count(body.parked_replies), "replies", null, "could not be delivered") : null,
    ),
    h("p", { class: "quiet" }, scaling.reason),
  );
}

function showPriorities(part, waits) {
  if (waits.length === 0) {
    part.empty("No task waits.");
    return;
  }
  part.show(
    table(
      "Oldest waiting task by priority",
      ["Priority", ["Waiting", "number"], ["Oldest", "number"], ["A new one begins in", "number"]],
      waits.map((wait) =>
        row(
          wait.priority,
          h("a", { href: `#/tasks${query({ state: "waiting", priority: wait.priority })}` }, `Priority ${wait.priority}`),
          number(many(wait.waiting, "task")),
          number(duration(wait.oldest_ms)),
          number(wait.expected_wait_ms === undefined ? "not known" : `about ${duration(wait.expected_wait_ms)}`),
        ),
      ),
    ),
  );
}

function showGpus(part, counts, scaling) {
  if (counts.living === 0) {
    part.empty("No GPU lives: start a worker, or look why none is there.");
    return;
  }
  const of = (number) => number / counts.living;
  const kinds = [
    ["serving", counts.serving, "good"],
    ["blocked", counts.blocked, "warn"],
    ["draining", counts.draining, "calm"],
    ["drained", counts.drained, "calm"],
    ["quarantined", counts.quarantined, "bad"],
  ];
  const said = kinds.map(([name, number]) => `${count(number)} ${name}`).join(", ");
  const bars = kinds.map(([, number, kind]) => [of(number), kind]);
  part.show(
    bar(`${many(counts.living, "GPU")}: ${said}`, ...bars),
    h("ul", { class: "counts" }, kinds.map(([name, number, kind]) => h("li", { key: name }, h("i", { class: `swatch ${kind}`, "aria-hidden": "true" }), h("a", { href: `#/gpus${query({ state: name })}` }, h("b", {}, count(number)), ` ${name}`)))),
    h("p", {}, bar(`${count(counts.held)} of ${count(counts.slots)} slots held`, [counts.slots ? counts.held / counts.slots : 0, "accent"]), ` ${count(counts.held)} of ${many(counts.slots, "slot")} held`),
    scaling.safe_to_delete.length > 0 ? h("p", { class: "quiet" }, `Safe to delete: ${scaling.safe_to_delete.slice(0, 8).join(", ")}${scaling.safe_to_delete.length > 8 ? " …" : ""}`) : null,
  );
}

function showKinds(part, kinds) {
  if (kinds.length === 0) {
    part.empty("No task of any kind arrived, ran or ended in the last 15 minutes.");
    return;
  }
  const heads = ["Kind", "Waiting", "Running", "Ended", "Failed", "Retried", "Wait p50", "Wait p95", "Wait p99", "Run p50", "Run p95", "Run p99", "GPU time"];
  part.show(
    table(
      "Kinds over the last 15 minutes: tasks, and percentiles of wait and run time",
      heads.map((head, index) => (index === 0 ? head : [head, "number"])),
      kinds.map((kind) =>
        row(
          kind.kind,
          h("a", { href: `#/tasks${query({ kind: kind.kind })}` }, kind.kind),
          number(count(kind.waiting)),
          number(count(kind.running)),
          number(count(kind.ended)),
          cell(count(kind.failed), kind.failed > 0 ? "number bad-text" : "number"),
          number(count(kind.retried)),
          ["wait_p50_ms", "wait_p95_ms", "wait_p99_ms", "run_p50_ms", "run_p95_ms", "run_p99_ms"].map((name) => number(duration(kind[name]))),
          number(duration(kind.slot_seconds * 1000)),
        ),
      ),
    ),
  );
}
