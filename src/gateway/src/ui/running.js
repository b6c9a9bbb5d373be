// The tasks that run now.

import { get, part as pathPart, query, send } from "./api.js";
import { h } from "./dom.js";
import { age, count, many, percent, short } from "./format.js";
import { act, bar, button, cell, confirm, briefGpuLink, number, panel, repeat, row, table, taskLink } from "./parts.js";

const EVERY_MS = 2_000;
const SHOWN_MAX = 100;
// How many are asked at a time how far they are.
const AT_ONCE = 6;

export function running(content, scope) {
  const part = panel("Running now");
  part.node.classList.add("wide");
  content.append(part.node);
  let page = null;
  const progress = new Map();
  const draw = () => page && showRunning(part, page, progress, load);
  const load = repeat(scope, EVERY_MS, async (signal) => {
    try {
      page = await get(`/api/v1/tasks${query({ state: "running", slices: true, limit: SHOWN_MAX })}`, { signal });
      const ids = new Set(page.tasks.map((task) => task.task_id));
      for (const gone of [...progress.keys()].filter((id) => !ids.has(id))) {
        progress.delete(gone);
      }
      draw();
      await askProgress([...ids], progress, signal);
      draw();
    } catch (problem) {
      if (!signal.aborted) {
        part.failed(problem, load);
      }
    }
  });
  // What has run for how long goes on between two answers.
  const ticking = setInterval(() => document.hidden || draw(), 1_000);
  scope.onClose(() => clearInterval(ticking));
}

async function askProgress(ids, progress, signal) {
  const left = ids.filter((id) => !id.includes("{"));
  const ask = async () => {
    for (let id = left.shift(); id !== undefined; id = left.shift()) {
      try {
        progress.set(id, await get(`/api/v1/tasks/${pathPart(id)}`, { signal }));
      } catch (problem) {
        if (signal.aborted) {
          throw problem;
        }
        // It stays without.
        progress.delete(id);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, ask));
}

function showRunning(part, page, progress, load) {
  if (page.tasks.length === 0) {
    part.empty("No task runs now.");
    return;
  }
  const more = page.matching > page.tasks.length ? `; the ${count(page.tasks.length)} that were heard of last are shown` : "";
  part.show(
    h("p", { class: "quiet" }, `${many(page.matching, "task")} ${page.matching === 1 ? "runs" : "run"}${more}.`),
    table(
      "Running tasks",
      ["Task", "Kind", ["Priority", "number"], "GPU", ["Attempt", "number"], ["Elapsed", "number"], "Progress", "Action"],
      page.tasks.map((task) =>
        row(
          task.task_id,
          taskLink(task.task_id),
          cell(task.kind ?? "–"),
          number(task.priority ?? "–"),
          cell(task.gpu_id ? briefGpuLink(task.gpu_id) : "–"),
          number(count(task.attempt)),
          number(task.began_ms === undefined ? "–" : age(task.began_ms)),
          cell(howFar(progress.get(task.task_id))),
          cell(cancelButton(task, load)),
        ),
      ),
    ),
  );
}

export function howFar(status) {
  const { progress, items } = status ?? {};
  if (!progress && !items) {
    return h("span", { class: "quiet" }, "not told");
  }
  const fraction = progress?.fraction ?? (items.of > 0 ? items.done / items.of : 0);
  const said = [progress ? percent(fraction) : null, items ? `${count(items.done)} of ${many(items.of, "item")}` : null, progress?.message ? short(progress.message, 80) : null];
  return [bar(`${percent(fraction)} done`, [fraction, "accent"]), ` ${said.filter(Boolean).join(", ")}`];
}

// Slices are cancelled with their batch.
export function cancelButton(task, after) {
  if (task.task_id.includes("{")) {
    return h("span", { class: "quiet" }, "with its batch");
  }
  if (task.cancel_asked) {
    return h("span", { class: "quiet" }, "cancel asked");
  }
  return button("Cancel", () => cancel(task.task_id, after), { label: `Cancel task ${short(task.task_id, 60)}` });
}

async function cancel(id, after) {
  if (!(await confirm({ title: `Cancel task ${short(id, 80)}?`, text: "If it waits it is skipped; if it runs it is ended within about a second. It cannot be taken back.", action: "Cancel it" }))) {
    return;
  }
  await act(async () => {
    const { was } = await send("DELETE", `/api/v1/tasks/${pathPart(id)}`);
    await after();
    return `The end of task ${short(id, 80)} was asked for; it was ${was}.`;
  });
}
