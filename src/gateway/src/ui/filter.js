// Which tasks are meant: read from an address, shown as a form, said in words.

import { get } from "./api.js";
import { h, patch } from "./dom.js";
import { readDuration, writeDuration } from "./format.js";
import { TASK_STATES } from "./parts.js";

const TEXTS = ["group", "gpu_id", "id_prefix", "error"];
const TIMES = ["older_than_ms", "newer_than_ms"];

// The filter of an address's query. What is empty or no filter is left out.
export function readFilter(search) {
  const filter = {};
  const list = (name) => search.getAll(name).flatMap((text) => text.split(",")).map((text) => text.trim()).filter((text) => text !== "");
  const states = list("state").filter((state) => TASK_STATES.includes(state));
  const priorities = list("priority").map(Number).filter((number) => Number.isInteger(number) && number >= 0 && number <= 9);
  for (const [name, values] of [["state", states], ["kind", list("kind")], ["priority", priorities]]) {
    if (values.length > 0) {
      filter[name] = values;
    }
  }
  for (const name of TEXTS) {
    const text = (search.get(name) ?? "").trim();
    if (text !== "") {
      filter[name] = text;
    }
  }
  for (const name of TIMES) {
    const ms = Number(search.get(name));
    if (search.has(name) && Number.isSafeInteger(ms) && ms >= 0) {
      filter[name] = ms;
    }
  }
  if (["true", "false"].includes(search.get("dead"))) {
    filter.dead = search.get("dead") === "true";
  }
  if (search.get("slices") === "true") {
    filter.slices = true;
  }
  return filter;
}

// The same as fields of a query string: `dead: false` is a value there.
export function asQuery(filter) {
  return { ...filter, dead: filter.dead === undefined ? undefined : String(filter.dead) };
}

// What a filter means, for people.
export function inWords(filter) {
  const said = [
    filter.state && filter.state.join(" or "),
    filter.kind && `of kind ${filter.kind.join(" or ")}`,
    filter.priority && `of priority ${filter.priority.join(" or ")}`,
    filter.group && `in group ${filter.group}`,
    filter.gpu_id && `on GPU ${filter.gpu_id}`,
    filter.id_prefix && `with an id that begins with ${filter.id_prefix}`,
    filter.error && `with “${filter.error}” in the error`,
    filter.older_than_ms !== undefined && `older than ${writeDuration(filter.older_than_ms)}`,
    filter.newer_than_ms !== undefined && `newer than ${writeDuration(filter.newer_than_ms)}`,
    filter.dead === true && "with a dead letter",
    filter.dead === false && "without a dead letter",
    filter.slices && "slices of batches included",
  ];
  return said.filter(Boolean).join(", ") || "every task that the fleet knows of";
}

// A form for a filter. `changed` is called with the new one.
export function filterForm(filter, changed) {
  const lists = { kind: h("datalist", { id: "known-kinds" }), gpu_id: h("datalist", { id: "known-gpus" }), group: h("datalist", { id: "known-groups" }) };
  const input = (name, label, value, more = {}) => {
    const field = h("input", { id: `filter-${name}`, name, value: value ?? "", autocomplete: "off", spellcheck: "false", ...more });
    field.defaultValue = value ?? "";
    return [field, h("div", { class: "field" }, h("label", { for: `filter-${name}` }, label), field)];
  };
  const states = TASK_STATES.map((state) => h("input", { type: "checkbox", id: `state-${state}`, value: state, checked: (filter.state ?? []).includes(state) }));
  const [kind, kindField] = input("kind", "Kind", (filter.kind ?? []).join(", "), { list: "known-kinds" });
  const [priority, priorityField] = input("priority", "Priority (0 to 9)", (filter.priority ?? []).join(", "), { inputmode: "numeric", placeholder: "any" });
  const [group, groupField] = input("group", "Group", filter.group, { list: "known-groups" });
  const [gpu, gpuField] = input("gpu_id", "GPU", filter.gpu_id, { list: "known-gpus" });
  const [prefix, prefixField] = input("id_prefix", "Id begins with", filter.id_prefix);
  const [error, errorField] = input("error", "Text of the error", filter.error);
  const [older, olderField] = input("older_than", "Older than", filter.older_than_ms === undefined ? "" : writeDuration(filter.older_than_ms), { placeholder: "10m, 2h" });
  const [newer, newerField] = input("newer_than", "Newer than", filter.newer_than_ms === undefined ? "" : writeDuration(filter.newer_than_ms), { placeholder: "10m, 2h" });
  const dead = h("select", { id: "filter-dead" }, [["", "any"], ["true", "with"], ["false", "without"]].map(([value, text]) => h("option", { value, selected: String(filter.dead ?? "") === value }, text)));
  const slices = h("input", { type: "checkbox", id: "filter-slices", checked: filter.slices ?? false });
  const wrong = h("p", { class: "bad-text", role: "alert" });

  const read = () => {
    const times = [[older, "Older than"], [newer, "Newer than"]].map(([field, label]) => {
      const text = field.value.trim();
      const ms = text === "" ? undefined : readDuration(text);
      field.setAttribute("aria-invalid", String(ms === null));
      return ms === null ? `${label}: write a time such as 90s, 15m, 6h or 2d, not “${text}”.` : ms;
    });
    const priorities = priority.value.split(",").map((text) => text.trim()).filter((text) => text !== "");
    const strange = priorities.find((text) => !/^[0-9]$/.test(text));
    priority.setAttribute("aria-invalid", String(strange !== undefined));
    const complaint = strange !== undefined ? `Priority: write numbers from 0 to 9, with commas, not “${strange}”.` : times.find((one) => typeof one === "string");
    wrong.textContent = complaint ?? "";
    if (complaint) {
      return;
    }
    const search = new URLSearchParams();
    states.filter((box) => box.checked).forEach((box) => search.append("state", box.value));
    for (const [name, value] of [["kind", kind.value], ["priority", priority.value], ["group", group.value], ["gpu_id", gpu.value], ["id_prefix", prefix.value], ["error", error.value], ["older_than_ms", times[0] ?? ""], ["newer_than_ms", times[1] ?? ""], ["dead", dead.value], ["slices", slices.checked ? "true" : ""]]) {
      if (value !== "") {
        search.append(name, String(value));
      }
    }
    changed(readFilter(search));
  };
  const form = h(
    "form",
    {
      class: "filters wide",
      "aria-label": "Which tasks are shown",
      on: {
        change: read,
        submit: (event) => {
          event.preventDefault();
          read();
        },
      },
    },
    h("fieldset", { class: "states" }, h("legend", {}, "State"), states.map((box) => h("label", { for: box.id }, box, ` ${box.value}`))),
    h("div", { class: "fields" }, kindField, priorityField, groupField, gpuField, prefixField, errorField, olderField, newerField, h("div", { class: "field" }, h("label", { for: "filter-dead" }, "Dead letter"), dead), h("div", { class: "field check" }, h("label", { for: "filter-slices" }, slices, " Slices of batches too"))),
    Object.values(lists),
    wrong,
    h("p", { class: "actions" }, h("button", { type: "submit" }, "Show"), h("a", { href: "#/tasks" }, "Show all")),
  );
  void complete(lists);
  return form;
}

// What may be chosen, as far as it can be known. Without it one can still type.
async function complete(lists) {
  const fill = async (list, path, names) => {
    try {
      patch(list, names(await get(path)).map((name) => h("option", { key: name, value: name })));
    } catch {
      // Nothing is offered then.
    }
  };
  await Promise.all([
    fill(lists.kind, "/api/v1/kinds", ({ kinds }) => kinds.map((one) => one.kind)),
    fill(lists.gpu_id, "/api/v1/gpus", ({ gpus }) => gpus.map((one) => one.gpu.gpu_id)),
    fill(lists.group, "/api/v1/groups?limit=100", ({ groups }) => groups.map((one) => one.group)),
  ]);
}
