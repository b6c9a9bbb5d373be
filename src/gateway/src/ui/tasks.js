// Tasks, by everything that tells them apart; and what is done to many of them.

import { get, query, send } from "./api.js";
import { h, patch } from "./dom.js";
import { age, count, duration, many, short, time } from "./format.js";
import { asQuery, filterForm, inWords, readFilter } from "./filter.js";
import * as live from "./live.js";
import { OPEN_STATES, act, button, cell, confirm, briefGpuLink, number, panel, repeat, row, stateBadge, table, taskLink } from "./parts.js";

const LIMITS = [50, 200, 1000];
const EVERY_MS = 3_000;

export function tasks(content, scope) {
  let filter = readFilter(scope.search);
  // Where each page that was turned begins; the first begins nowhere.
  let turned = [undefined];
  let limit = LIMITS[0];
  let page = null;

  const part = panel("Tasks");
  const pager = h("div", { class: "pager" });
  const actions = h("div", { class: "actions" });
  part.node.classList.add("wide");
  const form = filterForm(filter, (changed) => {
    filter = changed;
    turned = [undefined];
    // No entry in the history for each tick of a box.
    history.replaceState(null, "", `#/tasks${query(asQuery(filter))}`);
    void load();
  });
  content.append(form, actions, part.node, pager);

  const draw = () => {
    showTasks(part, page, filter);
    showActions();
    showPager();
  };
  const showPager = () => {
    const turn = (to) => () => {
      turned = to;
      void load();
    };
    const sizes = h("select", { id: "page-size", on: { change: (event) => { limit = Number(event.target.value); turned = [undefined]; void load(); } } }, LIMITS.map((size) => h("option", { key: size, value: size, selected: size === limit }, `${count(size)} tasks`)));
    patch(
      pager,
      h("span", { class: "quiet", role: "status" }, `Page ${turned.length}`),
      button("Newest", turn([undefined]), { disabled: turned.length === 1 }),
      button("Newer", turn(turned.slice(0, -1)), { disabled: turned.length === 1 }),
      button("Older", turn([...turned, page.next]), { disabled: page.next === undefined }),
      h("label", { for: "page-size" }, "a page has "),
      sizes,
    );
  };
  const showActions = () => {
    patch(
      actions,
      button("Cancel these …", () => cancelAll(filter, load), { disabled: openOf(filter).length === 0 || page.matching === 0 }),
      button("Requeue their dead letters …", () => requeueAll(filter, load), { disabled: filter.dead === false || page.matching === 0 }),
      h("span", { class: "quiet" }, `of ${inWords(filter)}`),
    );
  };
  const load = repeat(scope, EVERY_MS, async (signal) => {
    const asked = JSON.stringify([filter, turned, limit]);
    try {
      const answer = await get(`/api/v1/tasks${query({ ...asQuery(filter), after: turned.at(-1), limit })}`, { signal });
      if (asked === JSON.stringify([filter, turned, limit])) {
        page = answer;
        draw();
      }
    } catch (problem) {
      if (!signal.aborted) {
        part.failed(problem, load);
      }
    }
  });
}

function showTasks(part, page, filter) {
  const known = `The index has ${many(page.indexed, "task")}`;
  const since = page.since_ms === undefined ? "." : [", the oldest of ", time(page.since_ms), "."];
  if (page.tasks.length === 0) {
    part.show(h("p", { class: "quiet" }, page.matching > 0 ? "Nothing is on this page any more. " : `No task matches: ${inWords(filter)}. `, known, since));
    return;
  }
  part.show(
    h("p", { class: "quiet" }, h("b", { id: "matching" }, many(page.matching, "task")), page.matching === 1 ? " matches. " : " match. ", known, since),
    table(
      "Tasks, those first that were heard of last",
      ["Task", "State", "Kind", ["Priority", "number"], "Group", "GPU", ["Attempt", "number"], ["Age", "number"], ["Waited", "number"], ["Ran", "number"], "Waits for, or error"],
      page.tasks.map((task) =>
        row(
          task.task_id,
          taskLink(task.task_id),
          cell([stateBadge(task.state), task.dead ? h("small", {}, " dead letter") : null, task.cancel_asked && OPEN_STATES.includes(task.state) ? h("small", {}, " cancel asked") : null]),
          cell([task.kind ?? "–", task.items === undefined ? null : h("small", {}, ` ${many(task.items, "item")}`)]),
          number(task.priority ?? "–"),
          cell(task.group ? h("a", { href: `#/tasks${query({ group: task.group })}` }, task.group) : "–"),
          cell(task.gpu_id ? briefGpuLink(task.gpu_id) : "–"),
          number(count(task.attempt)),
          number(age(task.first_seen_ms)),
          number(duration(task.waited_ms)),
          number(duration(task.run_ms)),
          cell(reason(task), "text"),
        ),
      ),
    ),
  );
}

function reason(task) {
  if (task.error) {
    return short(`${task.error.code}: ${task.error.message}`);
  }
  return OPEN_STATES.includes(task.state) && task.waiting_for ? short(task.waiting_for) : "";
}

// The states of a filter in which a task can still be cancelled.
function openOf(filter) {
  return filter.state ? filter.state.filter((state) => OPEN_STATES.includes(state)) : OPEN_STATES;
}

async function matching(filter) {
  const page = await get(`/api/v1/tasks${query({ ...asQuery(filter), limit: 1 })}`);
  return page.matching;
}

// Asks as often as it takes: one request reaches a bounded number of tasks. Ends where one reaches none, and after as many as were agreed to.
async function over(path, meant, agreed, counts) {
  const sums = counts.map(() => 0);
  let done;
  do {
    done = await send("POST", path, meant);
    counts.forEach((name, index) => {
      sums[index] += done[name];
    });
  } while (done.more && done[counts[0]] > 0 && sums[0] < agreed);
  return [...sums, done.more ? " Others are left." : ""];
}

async function cancelAll(filter, load) {
  // Slices end with their batch.
  const meant = { ...filter, slices: false, state: openOf(filter) };
  await act(async () => {
    // No state at all would mean every state.
    const number = meant.state.length === 0 ? 0 : await matching(meant);
    if (number === 0) {
      return "No such task is left to be cancelled.";
    }
    const agreed = await confirm({
      title: `Cancel ${many(number, "task")}?`,
      text: [`These are ${inWords(meant)}.`, "Those that wait are skipped, those that run are ended. It cannot be taken back."],
      action: `Cancel ${many(number, "task")}`,
    });
    if (!agreed) {
      return "Nothing was cancelled.";
    }
    const [cancelled, ended, rest] = await over("/api/v1/tasks:cancel", meant, number, ["cancelled", "ended"]);
    await Promise.all([load(), live.refresh()]);
    return `The end of ${many(cancelled, "task")} was asked for; ${count(ended)} had ended already.${rest}`;
  });
}

async function requeueAll(filter, load) {
  const meant = { ...filter, slices: false, dead: true };
  await act(async () => {
    const number = await matching(meant);
    if (number === 0) {
      return "None of them has a dead letter.";
    }
    const agreed = await confirm({
      title: `Requeue ${many(number, "dead letter")}?`,
      text: [`These are of tasks ${inWords(meant)}.`, "Each becomes a task again and starts at its first attempt."],
      action: `Requeue ${many(number, "dead letter")}`,
      tone: "primary",
    });
    if (!agreed) {
      return "Nothing was requeued.";
    }
    const [requeued, refused, rest] = await over("/api/v1/tasks:requeue", meant, number, ["requeued", "refused"]);
    await Promise.all([load(), live.refresh()]);
    return `${many(requeued, "task")} requeued, ${count(refused)} refused.${rest}`;
  });
}
