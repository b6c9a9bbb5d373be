// One task: where it is, why it waits, what happened to it, what came of it.

import { get, part as pathPart } from "./api.js";
import { h } from "./dom.js";
import { age, count, duration, many, megabytes, short, time } from "./format.js";
import { letterActions, letterBody } from "./dead.js";
import { OPEN_STATES, badge, cell, facts, gpuLink, panel, repeat, row, stateBadge, table, taskLink, verbatim } from "./parts.js";
import { cancelButton, howFar } from "./running.js";

const EVERY_MS = 2_000;

export function task(content, scope) {
  const { id } = scope;
  const now = panel("Now");
  const why = panel("Why");
  const log = panel("Time line");
  const reply = panel("Reply");
  const letters = panel("Dead letter");
  for (const part of [log, reply, letters]) {
    part.node.classList.add("wide");
  }
  letters.node.hidden = true;
  content.append(now.node, why.node, log.node, reply.node, letters.node);
  const path = `/api/v1/tasks/${pathPart(id)}`;
  let settled = null;
  const load = repeat(scope, EVERY_MS, async (signal) => {
    const ask = (what, options) => get(what, { signal, ...options }).catch((problem) => (signal.aborted ? Promise.reject(problem) : problem));
    const [status, told] = await Promise.all([ask(path, { exact: true }), ask(`${path}/log`)]);
    // Nothing changes any more: the rest was asked for already.
    const state = JSON.stringify([status.state, status.attempt, status.changed_ms, told.steps?.length, status.reply !== undefined]);
    const open = OPEN_STATES.includes(status.state);
    showNow(now, id, status, told, load);
    showLog(log, told, load);
    if (!open && state === settled) {
      return;
    }
    showReply(reply, status, load);
    showWhy(why, await ask(`${path}/why`), load);
    if (buried(told, status)) {
      await showLetters(letters, id, ask, load);
    } else {
      letters.node.hidden = true;
    }
    settled = state;
  });
}

// Whether its bytes are probably among the dead letters: looking for them takes the letters in hand for a moment.
function buried(told, status) {
  if (failed(told)) {
    return ["failed", "expired"].includes(status.state);
  }
  return told.steps.findLast((step) => ["buried", "requeued"].includes(step.step))?.step === "buried";
}

function failed(body) {
  return body instanceof Error;
}

function showNow(part, id, status, told, load) {
  if (failed(status)) {
    if (status.status === 404 && told.steps?.length > 0) {
      part.show(h("p", {}, "The store has forgotten this task, or no worker has seen it yet; its steps are below."));
    } else if (status.status === 404) {
      part.empty("The fleet never heard of this task, or has forgotten it.");
    } else {
      part.failed(status, load);
    }
    return;
  }
  const first = failed(told) ? undefined : told.steps.find((step) => step.needs || step.priority !== undefined);
  const asked = !failed(told) && told.steps.some((step) => step.step === "cancel_asked");
  const open = OPEN_STATES.includes(status.state);
  part.show(
    h("p", { "aria-live": "polite" }, stateBadge(status.state), status.waiting_for && open ? ` ${short(status.waiting_for, 300)}` : null),
    facts(
      ["Kind", status.kind],
      ["Priority", first?.priority],
      ["Group", status.group ? h("a", { href: `#/tasks?group=${encodeURIComponent(status.group)}` }, status.group) : null],
      ["Needs", needs(first?.needs)],
      ["Only on", first?.specific_gpu_id ? gpuLink(first.specific_gpu_id) : null],
      ["GPU", status.gpu_id ? gpuLink(status.gpu_id) : null],
      ["Attempt", count(status.attempt)],
      ["Crashes", status.crashes > 0 ? many(status.crashes, "crash", "crashes") : null],
      ["Progress", status.state === "running" || status.items ? howFar(status) : null],
      ["Slices", status.slices ? `${count(status.slices.waiting)} waiting, ${count(status.slices.running)} running, ${count(status.slices.ended)} ended` : null],
      ["Not before", status.not_before_ms ? time(status.not_before_ms) : null],
      ["First seen", [time(status.first_seen_ms), `, ${age(status.first_seen_ms)} ago`]],
      ["Changed", [time(status.changed_ms), `, ${age(status.changed_ms)} ago`]],
    ),
    open ? h("p", { class: "actions" }, cancelButton({ task_id: id, cancel_asked: asked }, load)) : null,
  );
}

function needs(given) {
  if (!given) {
    return null;
  }
  const said = Object.entries(given).filter(([, value]) => value !== null && value !== 0 && value !== "" && !(Array.isArray(value) && value.length === 0));
  return said.map(([name, value]) => (name.endsWith("_mb") ? `${name.slice(0, -3).replaceAll("_", " ")} ${megabytes(value)}` : `${name.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`)).join(", ") || null;
}

const OBSTACLES = {
  none: ["✓", "nothing", "good"],
  full: ["●", "full", "warn"],
  kind: ["✕", "not its kind", "calm"],
  kind_down: ["✕", "kind is down", "bad"],
  other_gpu: ["✕", "another GPU is named", "calm"],
  too_small: ["✕", "too small", "calm"],
  memory: ["◐", "memory not free", "warn"],
  capability: ["✕", "capability too low", "calm"],
  health: ["✕", "not healthy", "bad"],
  draining: ["▽", "drained", "warn"],
  stopping: ["▽", "stopping", "warn"],
  not_consuming: ["◌", "without the broker", "bad"],
  threshold: ["◌", "over a threshold", "warn"],
};

function showWhy(part, why, load) {
  if (failed(why)) {
    if (why.status === 404) {
      part.empty("The fleet knows nothing of this task that would tell.");
    } else {
      part.failed(why, load);
    }
    return;
  }
  const first = why.first_ahead ?? [];
  part.show(
    h("p", { class: "sentence", id: "why" }, why.sentence),
    facts(
      ["Before it", why.ahead === undefined ? null : many(why.ahead, "task")],
      ["The first of them", first.length > 0 ? first.map((id, index) => [index > 0 ? ", " : null, taskLink(id)]) : null],
      ["Begins in about", why.begins_in_ms === undefined ? null : duration(why.begins_in_ms)],
      ["Forecast", why.forecast],
    ),
    OPEN_STATES.includes(why.state) && why.gpus.length > 0
      ? table(
          "What keeps each GPU from taking it now",
          ["GPU", "Could run it", "In the way", "In words"],
          why.gpus.map((one) => {
            const [symbol, text, tone] = OBSTACLES[one.obstacle] ?? ["?", String(one.obstacle), "calm"];
            return row(one.gpu_id, gpuLink(one.gpu_id), cell(one.fits ? "yes" : "no"), cell(badge(symbol, text, tone)), cell(one.words, "text"));
          }),
          { hideCaption: false },
        )
      : null,
    why.more_gpus > 0 ? h("p", { class: "quiet" }, `And ${many(why.more_gpus, "more GPU")}.`) : null,
  );
}

const STEPS = {
  submitted: "Submitted",
  delayed: "Delayed",
  waits: "Waits",
  forwarded: "Forwarded",
  began: "Began",
  retrying: "Failed, to be tried again",
  crashed: "Crashed",
  split: "Split into slices",
  cancel_asked: "Cancel asked for",
  ended: "Ended",
  reply_waits: "Reply waits",
  buried: "Among the dead letters",
  requeued: "Requeued",
};

function showLog(part, log, load) {
  if (failed(log)) {
    if (log.status === 404) {
      part.empty("No step of it is remembered.");
    } else {
      part.failed(log, load);
    }
    return;
  }
  const begin = log.steps[0]?.at_ms;
  part.show(
    log.forgotten > 0 ? h("p", { class: "quiet" }, `${many(log.forgotten, "older step")} of it were forgotten.`) : null,
    h(
      "ol",
      { class: "steps" },
      log.steps.map((step, index) =>
        h(
          "li",
          { key: index, "data-step": step.step },
          h("span", { class: "when" }, time(step.at_ms), h("small", {}, index === 0 ? "" : ` +${duration(step.at_ms - begin)}`)),
          h("div", {}, h("strong", {}, STEPS[step.step] ?? "A step that this page does not know"), step.task_id && step.task_id !== log.task_id ? h("small", {}, ` slice ${step.task_id}`) : null, h("div", { class: "said" }, said(step))),
        ),
      ),
    ),
  );
}

// What a step says, in pieces with commas between.
function said(step) {
  const pieces = [
    step.attempt !== undefined ? `attempt ${step.attempt}` : null,
    step.gpu_id ? ["GPU ", gpuLink(step.gpu_id)] : null,
    step.strategy ? `chosen by ${step.strategy.replaceAll("_", " ")}${step.among === undefined ? "" : ` among ${many(step.among, "GPU that fits", "GPUs that fit")}`}` : null,
    step.waited_ms !== undefined ? `waited ${duration(step.waited_ms)}` : null,
    step.run_ms !== undefined ? `ran ${duration(step.run_ms)}` : null,
    step.load_ms > 0 ? `loaded a model for ${duration(step.load_ms)}` : null,
    step.transfer_ms > 0 ? `brought tensors for ${duration(step.transfer_ms)}` : null,
    step.outcome ?? null,
    step.after_ms !== undefined ? `again after ${duration(step.after_ms)}` : null,
    step.not_before_ms !== undefined ? ["not before ", time(step.not_before_ms)] : null,
    step.start_before_ms !== undefined ? ["to start before ", time(step.start_before_ms)] : null,
    step.items !== undefined ? many(step.items, "item") : null,
    step.error ? h("span", { class: "bad-text" }, `${step.error.code}: ${step.error.message}`) : null,
    step.reason ?? null,
    step.trace_id ? ["trace ", h("code", {}, step.trace_id)] : null,
  ].filter((piece) => piece !== null);
  return pieces.map((piece, index) => [index > 0 ? ", " : null, piece]);
}

function showReply(part, status, load) {
  if (failed(status)) {
    if (status.status === 404) {
      part.empty("There is none.");
    } else {
      part.failed(status, load);
    }
    return;
  }
  const { reply } = status;
  if (!reply) {
    part.empty(OPEN_STATES.includes(status.state) ? "It comes when the task has ended." : "It is no longer kept.");
    return;
  }
  const { timings, strategy } = reply;
  const exact = status.exact().reply;
  part.show(
    reply.error ? h("p", {}, badge("✕", reply.error.code, "bad"), ` ${reply.error.message}`, reply.error.field ? h("small", {}, ` (field ${reply.error.field})`) : null) : null,
    facts(
      ["Waited in the worker's hand", duration(timings.waited_ms)],
      ["Ran", duration(timings.run_ms)],
      ["On the GPU", timings.device_ms === undefined ? null : duration(timings.device_ms)],
      ["Ran together with", timings.batch_size > 1 ? many(timings.batch_size - 1, "other payload") : null],
      ["Strategy", strategy ? strategy.used.replaceAll("_", " ") : null],
      ["GPUs", reply.gpu_ids?.length > 0 ? reply.gpu_ids.join(", ") : null],
      ["Items", reply.items ? `${count(reply.items.of)}, ${count(reply.items.failed ?? 0)} failed` : null],
    ),
    reply.result !== undefined && reply.result !== null ? verbatim("Result", JSON.stringify(exact.result, null, 2)) : null,
    reply.results !== undefined && reply.results !== null ? verbatim("Results of its items", JSON.stringify(exact.results, null, 1)) : null,
  );
}

async function showLetters(part, id, ask, load) {
  const letters = await ask(`/api/v1/dead/${pathPart(id)}`);
  if (failed(letters)) {
    part.node.hidden = letters.status === 404 || letters.status === 403;
    if (!part.node.hidden) {
      part.failed(letters, load);
    }
    return;
  }
  part.node.hidden = false;
  part.show(letters.map((letter, index) => h("div", { key: index }, h("p", { class: "bad-text" }, letter.reason ?? "It has no reason."), letterBody(letter))), h("p", { class: "actions" }, letterActions(id, load)));
}
