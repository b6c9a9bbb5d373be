// The GPUs: all of them in a grid, and one by itself.

import { get, part as pathPart, query, send } from "./api.js";
import { chart } from "./charts.js";
import { h } from "./dom.js";
import { count, duration, figure, many, megabytes, percent, short, time } from "./format.js";
import * as live from "./live.js";
import { act, badge, bar, button, cell, confirm, facts, gpuLink, number, panel, repeat, row, stateBadge, table, taskLink } from "./parts.js";

const STATES = {
  serving: ["●", "serving", "good"],
  full: ["●", "serving, full", "good"],
  suspect: ["◐", "serving, suspect", "warn"],
  blocked: ["◌", "blocked", "warn"],
  draining: ["▽", "draining", "calm"],
  drained: ["□", "drained", "calm"],
  quarantined: ["✕", "quarantined", "bad"],
  probation: ["✕", "on probation", "bad"],
};
// What the filter tells apart, as the overview counts it.
const GROUPS = ["serving", "blocked", "draining", "drained", "quarantined"];

// Where a GPU is, in one word, and why.
function state(view) {
  if (view.phase === "drained" || view.phase === "draining") {
    const why = view.draining ? "an operator drains it" : "its worker is stopping";
    return { name: view.phase, group: view.phase, why: view.phase === "drained" ? `${why}; it holds nothing and is safe to delete` : why };
  }
  if (view.health === "quarantined" || view.health === "probation") {
    return { name: view.health, group: "quarantined", why: view.health_reason };
  }
  if (!view.consuming) {
    return { name: "blocked", group: "blocked", why: "its worker does not reach the broker" };
  }
  if (!view.eligible) {
    const used = view.sample.memory_used_mb / view.gpu.memory_total_mb;
    return { name: "blocked", group: "blocked", why: `over a threshold of the fleet: ${percent(used)} of its memory in use, others use ${figure(view.foreign_utilization_percent)} % of it` };
  }
  if (view.health === "suspect") {
    return { name: "suspect", group: "serving", why: view.health_reason };
  }
  return view.held >= view.slots ? { name: "full", group: "serving", why: "every slot is held" } : { name: "serving", group: "serving", why: "" };
}

function stateOf(view) {
  const { name, why } = state(view);
  const [symbol, text, tone] = STATES[name];
  return [badge(symbol, text, tone), why ? h("span", { class: "why" }, ` ${short(why, 200)}`) : null];
}

function slots(view) {
  return [bar(`${view.held} of ${view.slots} slots held`, [view.held / view.slots, "accent"]), ` ${count(view.held)} of ${many(view.slots, "slot")}`, view.waiting > 0 ? `, ${count(view.waiting)} waiting in hand` : null];
}

function load(view) {
  const all = view.sample.utilization_percent;
  const others = Math.min(all, view.foreign_utilization_percent ?? 0);
  return [
    bar(`${figure(all)} % in use, ${figure(all - others)} % by our tasks, ${figure(others)} % by others`, [(all - others) / 100, "accent"], [others / 100, "warn"]),
    ` ${figure(all)} %`,
    h("span", { class: "quiet" }, `, ours ${figure(all - others)} %, others ${figure(others)} %`),
  ];
}

function memory(view) {
  const total = view.gpu.memory_total_mb;
  const used = view.sample.memory_used_mb;
  const evictable = Math.min(used, view.evictable_mb ?? 0);
  return [
    bar(`${megabytes(used)} of ${megabytes(total)} in use, ${megabytes(evictable)} of it can be evicted`, [(used - evictable) / total, "accent"], [evictable / total, "soft"]),
    ` ${megabytes(used)} of ${megabytes(total)}`,
    evictable > 0 ? h("span", { class: "quiet" }, `, ${megabytes(evictable)} can be evicted`) : null,
  ];
}

function stays(view) {
  const models = view.models ?? [];
  const said = [models.length > 0 ? `${many(models.length, "model")}: ${short(models.join(", "), 80)}` : null, view.tensors > 0 ? `${many(view.tensors, "tensor")}, ${megabytes(view.tensor_mb ?? 0)}` : null];
  return said.filter((one) => one !== null).join("; ");
}

function hardware({ sample }) {
  const throttled = sample.throttled_by ?? [];
  return [
    `${figure(sample.power_watts)} W, ${figure(sample.temperature_celsius)} °C, ${figure(sample.sm_clock_mhz)} MHz`,
    throttled.length > 0 ? h("span", { class: "warn-text" }, `, throttled by ${throttled.join(", ").replaceAll("_", " ")}`) : null,
    sample.ecc_errors > 0 ? h("span", { class: "bad-text" }, `, ${many(sample.ecc_errors, "ECC error")}`) : null,
  ];
}

function drainButton(view) {
  const id = view.gpu.gpu_id;
  return view.draining ? button("Undrain", () => undrain(id), { label: `Undrain GPU ${id}` }) : button("Drain", () => drain(view), { label: `Drain GPU ${id}` });
}

async function drain(view) {
  const id = view.gpu.gpu_id;
  const has = view.held > 0 ? `It finishes the ${many(view.held, "task")} that it holds.` : "It holds no task now.";
  if (await confirm({ title: `Drain GPU ${id}?`, text: `${has} It takes no more until somebody undrains it, also after a restart of its worker.`, action: "Drain it" })) {
    await act(async () => {
      await send("PUT", `/api/v1/gpus/${pathPart(id)}/drain`);
      await live.refresh();
      return `GPU ${id} drains.`;
    });
  }
}

async function undrain(id) {
  await act(async () => {
    await send("DELETE", `/api/v1/gpus/${pathPart(id)}/drain`);
    await live.refresh();
    return `GPU ${id} takes tasks again.`;
  });
}

export function gpus(content, scope) {
  const part = panel("All GPUs");
  part.node.classList.add("wide");
  let known = null;
  const draw = () => known && showGrid(part, known, { group: group.value, text: text.value.trim().toLowerCase() });
  const group = h("select", { id: "gpu-state", on: { change: draw } }, h("option", { value: "" }, "in any state"), GROUPS.map((name) => h("option", { value: name, selected: name === scope.search.get("state") }, name)));
  const text = h("input", { id: "gpu-text", type: "search", autocomplete: "off", on: { input: draw } });
  content.append(h("div", { class: "filters wide", role: "search" }, h("label", { for: "gpu-state" }, "Show those "), group, h("label", { for: "gpu-text" }, "with this in id, name, host, kind or model "), text), part.node);
  scope.onClose(
    live.on("gpus", (body) => {
      known = body.gpus;
      draw();
    }),
  );
  scope.onClose(live.on("failed", (problem) => part.failed(problem, live.refresh)));
}

// Cards of more GPUs would be too many to look at.
const SHOWN_MAX = 400;

function showGrid(part, known, { group, text }) {
  if (known.length === 0) {
    part.empty("No GPU lives: start a worker, or look why none is there.");
    return;
  }
  const matches = (view) => [view.gpu.gpu_id, view.gpu.name, view.host, ...view.kinds, ...(view.models ?? [])].some((one) => one.toLowerCase().includes(text));
  const shown = known.filter((view) => (group === "" || state(view).group === group) && (text === "" || matches(view)));
  if (shown.length === 0) {
    part.empty(`None of ${many(known.length, "GPU")} matches.`);
    return;
  }
  part.show(h("p", { class: "quiet" }, shown.length === known.length ? many(known.length, "GPU") : `${count(shown.length)} of ${many(known.length, "GPU")}`, shown.length > SHOWN_MAX ? `; the first ${SHOWN_MAX}` : null), h("ul", { class: "grid-of-gpus" }, shown.slice(0, SHOWN_MAX).map(card)));
}

function card(view) {
  const { gpu_id: id, name } = view.gpu;
  return h(
    "li",
    { key: id, class: "card" },
    h("h3", {}, gpuLink(id)),
    h("p", { class: "quiet" }, `${name}, ${view.host}`),
    h("p", {}, stateOf(view)),
    facts(["Slots", slots(view)], ["Use", load(view)], ["Memory", memory(view)], ["Stays there", stays(view)], ["Hardware", hardware(view)]),
    h("p", { class: "actions" }, drainButton(view)),
  );
}

export function gpu(content, scope) {
  const { id } = scope;
  const now = panel("Now");
  const course = panel("Since this page was opened");
  const running = panel("Running tasks");
  const models = panel("Models, kinds and ways");
  const tasks = panel("Its last tasks", h("a", { href: `#/tasks${query({ gpu_id: id })}` }, "All of them"));
  running.node.classList.add("wide");
  course.node.classList.add("wide");
  tasks.node.classList.add("wide");
  content.append(now.node, models.node, running.node, course.node, tasks.node);
  const charts = [
    [chart({ title: "Use", unit: "%", lines: [{ name: "use", kind: "one" }] }), (sample) => [sample.utilization_percent]],
    [chart({ title: "Memory in use", write: megabytes, lines: [{ name: "memory", kind: "one" }] }), (sample) => [sample.memory_used_mb]],
    [chart({ title: "Power", unit: "W", lines: [{ name: "power", kind: "one" }] }), (sample) => [sample.power_watts]],
    [chart({ title: "Temperature", unit: "°C", lines: [{ name: "temperature", kind: "one" }] }), (sample) => [sample.temperature_celsius]],
  ];
  charts.forEach(([one]) => scope.onClose(one.close));
  course.show(h("div", { class: "charts" }, charts.map(([one]) => one.node)));
  scope.onClose(
    live.on("gpus", ({ gpus: known }) => {
      const view = known.find((one) => one.gpu.gpu_id === id);
      if (!view) {
        now.empty("No living GPU has this id: its worker has stopped or was lost, or there never was one.");
        running.empty("Nothing runs here.");
        models.empty("Nothing is known.");
        return;
      }
      showOne(now, view);
      showRunning(running, view);
      showModels(models, view);
      course.fresh();
      const samples = live.heard.samples.get(id) ?? [];
      const to = Date.now();
      for (const [one, values] of charts) {
        one.draw(samples.map((sample) => ({ at_ms: sample.at_ms, values: values(sample) })), Math.min(to - 60_000, samples[0]?.at_ms ?? to), to);
      }
    }),
  );
  scope.onClose(live.on("failed", (problem) => [now, running, models].forEach((one) => one.failed(problem, live.refresh))));
  const load = repeat(scope, 5_000, async (signal) => {
    try {
      const page = await get(`/api/v1/tasks${query({ gpu_id: id, limit: 20, slices: true })}`, { signal });
      showTasks(tasks, page.tasks);
    } catch (problem) {
      if (!signal.aborted) {
        tasks.failed(problem, load);
      }
    }
  });
}

function showOne(part, view) {
  const { gpu: it, servers = {} } = view;
  const pcie = it.hardware?.pcie;
  const link = pcie ? `${pcie.bus_id}${pcie.generation ? `, generation ${pcie.generation}` : ""}${pcie.width ? `, ${pcie.width} lanes` : ""}` : null;
  const answers = [["broker", servers.broker_ms], ["store", servers.store_ms], ["table", servers.table_ms]].filter(([, ms]) => ms !== undefined);
  part.show(
    h("p", {}, stateOf(view)),
    facts(
      ["Product", it.name],
      ["Host", view.host],
      ["Slots", slots(view)],
      ["Use", load(view)],
      ["Memory", memory(view)],
      ["Tensors", view.tensors > 0 ? `${many(view.tensors, "tensor")}, ${megabytes(view.tensor_mb ?? 0)} here, ${megabytes(view.tensor_host_mb ?? 0)} in the host's memory` : "none"],
      ["Hardware", hardware(view)],
      ["Health", view.health_reason ? `${view.health}: ${view.health_reason}` : view.health],
      ["Worker", view.phase],
      ["Compute capability", String(it.compute_capability)],
      ["PCI Express", link],
      ["NUMA node", it.hardware?.numa_node],
      ["Part of", it.hardware?.mig_of],
      ["Servers answer in", answers.length > 0 ? answers.map(([name, ms]) => `${name} ${duration(ms)}`).join(", ") : null],
      ["Broker", servers.broker_blocked ? "blocks its publishes" : null],
      ["Sample", `${duration(view.sample.age_ms)} old`],
      ["Expires in", `${duration(view.expires_in_ms)} without a heartbeat`],
      ["Start of its worker", h("code", {}, view.incarnation)],
    ),
    h("p", { class: "actions" }, drainButton(view)),
  );
}

function showRunning(part, view) {
  const running = view.running ?? [];
  if (running.length === 0) {
    part.empty("No task runs here now.");
    return;
  }
  part.show(h("ul", { class: "plain" }, running.map((id) => h("li", { key: id }, taskLink(id)))));
}

function showModels(part, view) {
  const models = view.model_details ?? [];
  const kinds = view.kinds.map((kind) => {
    const down = view.kinds_down?.[kind];
    const run = view.run_ms?.[kind];
    return row(kind, kind, number(run === undefined ? "–" : duration(run)), cell(down ? [badge("✕", "down", "bad"), ` ${down}`] : "runs"));
  });
  const errors = Object.entries(view.model_errors ?? {});
  const ways = view.ways ?? [];
  part.show(
    models.length > 0
      ? table(
          "Models in its memory",
          ["Model", ["Memory", "number"], ["Load", "number"], "State", ["Last used", "number"]],
          models.map((model) =>
            row(`${model.source}/${model.name}`, model.name, number(megabytes(model.memory_mb)), number(view.load_ms?.[model.name] === undefined ? "–" : duration(view.load_ms[model.name])), cell([model.in_use ? "in use" : "idle", model.pinned ? ", pinned" : null]), number(`${duration(model.last_used_ms_ago)} ago`)),
          ),
          { hideCaption: false },
        )
      : h("p", { class: "quiet" }, "No models are in its memory."),
    errors.length > 0 ? h("div", {}, h("h3", {}, "Models that could not be loaded"), h("ul", {}, errors.map(([model, why]) => h("li", { key: model }, `${model}: ${why}`)))) : null,
    table("Kinds that it runs", ["Kind", ["A run takes", "number"], "State"], kinds, { hideCaption: false }),
    ways.length > 0 ? h("div", {}, h("h3", {}, "Ways from other GPUs"), h("pre", { tabindex: "0", "aria-label": "Ways from other GPUs" }, JSON.stringify(ways, null, 1))) : null,
  );
}

function showTasks(part, tasks) {
  if (tasks.length === 0) {
    part.empty("The index knows of no task that ran here.");
    return;
  }
  part.show(
    table(
      "The last tasks of this GPU",
      ["Task", "State", "Kind", ["Attempt", "number"], ["Waited", "number"], ["Ran", "number"], "Changed", "Error"],
      tasks.map((task) =>
        row(task.task_id, taskLink(task.task_id), cell(stateBadge(task.state)), cell(task.kind ?? "–"), number(count(task.attempt)), number(duration(task.waited_ms)), number(duration(task.run_ms)), cell(time(task.changed_ms)), cell(task.error ? short(`${task.error.code}: ${task.error.message}`, 120) : "", "text")),
      ),
    ),
  );
}
