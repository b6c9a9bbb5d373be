// What operators set, and what they did.

import { get, part as pathPart, query, send } from "./api.js";
import { h } from "./dom.js";
import { many, short, time } from "./format.js";
import { act, button, cell, gpuLink, panel, repeat, row, table } from "./parts.js";

const EVERY_MS = 5_000;

export function settings(content, scope) {
  const strategy = panel("Default strategy");
  const thresholds = panel("Thresholds");
  const draining = panel("Drained GPUs");
  const actions = panel("Action log");
  actions.node.classList.add("wide");
  content.append(strategy.node, thresholds.node, draining.node, actions.node);
  const forms = { strategy: null, thresholds: null };
  const load = repeat(scope, EVERY_MS, async (signal) => {
    const ask = (path) => get(path, { signal }).catch((problem) => (signal.aborted ? Promise.reject(problem) : problem));
    const [known, log] = await Promise.all([ask("/api/v1/settings"), ask(`/api/v1/actions${query({ limit: 200 })}`)]);
    if (known instanceof Error) {
      [strategy, thresholds, draining].forEach((part) => part.failed(known, load));
    } else {
      showStrategy(strategy, forms, known, load);
      showThresholds(thresholds, forms, known, load);
      showDraining(draining, known, load);
    }
    if (log instanceof Error) {
      actions.failed(log, load);
    } else {
      showActions(actions, log.actions);
    }
  });
}

const STRATEGIES = {
  round_robin: "round robin: each GPU in turn",
  least_loaded: "least loaded: the GPU with the most room",
  task_specific: "task specific: the GPU that has what the task uses",
};

// A form is made again only when what it shows has changed at the fleet, so that nobody's typing is lost.
function once(forms, name, state, part, make) {
  const key = JSON.stringify(state);
  if (forms[name] === key) {
    part.fresh();
    return;
  }
  forms[name] = key;
  part.show();
  part.show(make());
}

function form(submit, ...children) {
  return h(
    "form",
    {
      on: {
        submit: (event) => {
          event.preventDefault();
          void submit();
        },
      },
    },
    children,
  );
}

function showStrategy(part, forms, known, load) {
  once(forms, "strategy", known.default_strategy, part, () => {
    const select = h("select", { id: "strategy" }, Object.entries(STRATEGIES).map(([name, text]) => h("option", { value: name, selected: name === known.default_strategy }, text)));
    const submit = () =>
      act(async () => {
        await send("PUT", "/api/v1/settings/strategy", { strategy: select.value });
        await load();
        return `The default strategy is ${select.value.replaceAll("_", " ")} now.`;
      });
    return form(submit, h("p", {}, h("label", { for: "strategy" }, "Of tasks that name none: "), select), h("p", { class: "actions" }, h("button", { type: "submit" }, "Set the strategy")));
  });
}

function showThresholds(part, forms, known, load) {
  const percent = (share) => String(Math.round(share * 1000) / 10);
  once(forms, "thresholds", [known.memory_threshold, known.utilization_threshold], part, () => {
    const field = (id, share, most) => h("input", { id, type: "number", min: 0, max: most, step: 0.1, required: true, value: percent(share) });
    const memory = field("memory-threshold", known.memory_threshold, 100);
    const utilization = field("utilization-threshold", known.utilization_threshold, 101);
    const submit = () =>
      act(async () => {
        const body = { memory_threshold: Number(memory.value) / 100, utilization_threshold: Number(utilization.value) / 100 };
        await send("PUT", "/api/v1/settings/thresholds", body);
        await load();
        return `The thresholds are ${memory.value} % of memory and ${utilization.value} % of use now.`;
      });
    return form(
      submit,
      h("p", { class: "quiet" }, "A GPU takes no task while it is over one of them. 101 % of use switches the second off."),
      h("p", {}, h("label", { for: "memory-threshold" }, "Memory in use "), memory, " %"),
      h("p", {}, h("label", { for: "utilization-threshold" }, "Use by others "), utilization, " %"),
      h("p", { class: "actions" }, h("button", { type: "submit" }, "Set the thresholds")),
    );
  });
}

function showDraining(part, known, load) {
  const draining = known.draining ?? [];
  if (draining.length === 0) {
    part.empty("No GPU is drained.");
    return;
  }
  const undrain = (id) => () =>
    act(async () => {
      await send("DELETE", `/api/v1/gpus/${pathPart(id)}/drain`);
      await load();
      return `GPU ${id} takes tasks again.`;
    });
  part.show(h("p", { class: "quiet" }, `${many(draining.length, "GPU")}. A drain stays until it is taken back, whether the worker runs or not.`), h("ul", { class: "plain" }, draining.map((id) => h("li", { key: id }, gpuLink(id), " ", button("Undrain", undrain(id), { label: `Undrain GPU ${id}` })))));
}

function showActions(part, actions) {
  if (actions.length === 0) {
    part.empty("Nobody changed anything yet, as far as is remembered.");
    return;
  }
  part.show(
    table(
      "What operators did, the last first",
      ["When", "Who", "From", "Did", "To", "More"],
      [...actions]
        .sort((a, b) => b.at_ms - a.at_ms)
        .map((one, index) => row(`${one.at_ms}-${index}`, time(one.at_ms), cell(short(one.who, 64)), cell(one.via), cell(one.action.replaceAll("_", " ")), cell(short(one.target ?? "", 120), "text"), cell(short(one.detail ?? "", 200), "text"))),
    ),
  );
}
