// How the fleet went over 15 minutes, 6 hours and 48 hours.

import { get, query } from "./api.js";
import { chart } from "./charts.js";
import { h, patch } from "./dom.js";
import { duration, now } from "./format.js";
import { panel, repeat } from "./parts.js";

const SPANS = [
  { name: "15m", words: "15 minutes", length: 15 * 60_000, everyMs: 5_000 },
  { name: "6h", words: "6 hours", length: 6 * 3_600_000, everyMs: 30_000 },
  { name: "48h", words: "48 hours", length: 48 * 3_600_000, everyMs: 60_000 },
];

// The panels of the history: of the fleet, and of one kind.
export function history(scope) {
  let span = SPANS[0];
  let kind = null;
  let body = null;
  const perSecond = (value) => (value * 1000) / body.step_ms;
  const charts = [
    [chart({ title: "Waiting and running", unit: "tasks", lines: [{ name: "waiting", kind: "one" }, { name: "running", kind: "two" }] }), (point) => [point.waiting, point.running]],
    [chart({ title: "Arriving and ending", unit: "tasks/s", lines: [{ name: "arriving", kind: "one" }, { name: "ending", kind: "two" }] }), (point) => [perSecond(point.arrived), perSecond(point.succeeded + point.failed + point.cancelled + point.expired)]],
    [chart({ title: "Age of the oldest waiting task", write: duration, lines: [{ name: "oldest", kind: "one" }] }), (point) => [point.oldest_waiting_ms]],
    [chart({ title: "Failing and retrying", unit: "tasks/s", lines: [{ name: "failing", kind: "three" }, { name: "retrying", kind: "one" }] }), (point) => [perSecond(point.failed), perSecond(point.retried)]],
    [chart({ title: "Slots of living GPUs", unit: "slots", lines: [{ name: "all", kind: "one" }, { name: "held", kind: "two" }] }), (point) => [point.slots, point.held]],
    [chart({ title: "Workers", unit: "workers", lines: [{ name: "living GPUs", kind: "two" }, { name: "desired workers", kind: "one" }] }), (point) => [point.gpus, point.desired_workers]],
    [chart({ title: "Dead letters", unit: "letters", lines: [{ name: "dead", kind: "three" }] }), (point) => [point.dead]],
  ];
  const three = [{ name: "p50", kind: "one" }, { name: "p95", kind: "two" }, { name: "p99", kind: "three" }];
  const of = (names) => (point) => names.map((name) => point.kinds?.[kind]?.[name] ?? null);
  const ofKind = [
    [chart({ title: "Wait before it began", write: duration, lines: three }), of(["wait_p50_ms", "wait_p95_ms", "wait_p99_ms"])],
    [chart({ title: "Run time", write: duration, lines: three }), of(["run_p50_ms", "run_p95_ms", "run_p99_ms"])],
  ];
  [...charts, ...ofKind].forEach(([one]) => scope.onClose(one.close));

  const choose = (chosen) => () => {
    span = chosen;
    body = null;
    showSpans();
    void load();
  };
  const spans = h("div", { class: "choice", role: "group", "aria-label": "How far back" });
  const showSpans = () => patch(spans, SPANS.map((one) => h("button", { key: one.name, type: "button", "aria-pressed": String(one === span), on: { click: choose(one) } }, one.words)));
  showSpans();
  const select = h("select", { "aria-label": "Kind", on: { change: () => drawKind() } });
  const fleet = panel("Course of the fleet", spans);
  const one = panel("Wait and run time of a kind", h("label", {}, "Kind ", select));
  for (const part of [fleet, one]) {
    part.node.classList.add("wide");
  }
  const draw = (list) => {
    const to = now();
    for (const [drawn, values] of list) {
      drawn.draw(body.points.map((point) => ({ at_ms: point.at_ms, values: values(point) })), to - span.length, to);
    }
  };
  const grid = (list) => h("div", { class: "charts" }, list.map(([drawn]) => drawn.node));
  const grids = { fleet: grid(charts), one: grid(ofKind) };

  // A panel shows its charts, or in their place why there are none; the charts themselves stay.
  const place = (part, charts, empty) => {
    if (empty) {
      part.empty(empty);
    } else if (!charts.isConnected) {
      part.show(charts);
    } else {
      part.fresh();
    }
  };
  const drawKind = () => {
    const kinds = [...new Set(body.points.flatMap((point) => Object.keys(point.kinds ?? {})))].sort();
    patch(select, kinds.map((name) => h("option", { key: name, value: name }, name)));
    select.disabled = kinds.length === 0;
    kind = kinds.includes(select.value) ? select.value : kinds[0];
    place(one, grids.one, kinds.length === 0 ? `No kind had work in the last ${span.words}.` : null);
    draw(ofKind);
  };
  let wanted = 0;
  const work = async (signal) => {
    const mine = (wanted += 1);
    const asked = span;
    try {
      const answer = await get(`/api/v1/history${query({ span: asked.name })}`, { signal });
      if (mine !== wanted || asked !== span) {
        return;
      }
      body = answer;
      place(fleet, grids.fleet, body.points.length === 0 ? "Nothing is remembered yet: the first points come within a minute." : null);
      draw(charts);
      drawKind();
    } catch (problem) {
      if (!signal.aborted) {
        fleet.failed(problem, load);
        one.failed(problem, load);
      }
    }
  };
  const load = repeat(scope, () => span.everyMs, work);
  return [fleet.node, one.node];
}
