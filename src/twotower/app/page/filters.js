// Filters made of the columns that /info tells of, and the JSON that a search takes for them.

const MANY = 8; // values shown before the rest is folded away

export function make(tag, options = {}, ...children) {
  const { data, on, ...rest } = options;
  const node = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(data ?? {})) node.dataset[name] = value;
  for (const [name, listen] of Object.entries(on ?? {})) node.addEventListener(name, listen);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Draws the filters of these columns; `changed` is called when one is set. Columns of which nothing can be chosen are left to the free filter.
export function draw(form, columns, changed) {
  const parts = columns.map(part).filter(Boolean);
  const text = make("input", { id: "where", placeholder: example(columns), spellcheck: false });
  const free = make("fieldset", { className: "free" }, make("legend", {}, "As text"), make("label", { htmlFor: "where", className: "quiet" }, "Columns: " + columns.filter((c) => c.kind !== "other").map((c) => c.name).join(", ")), text);
  const clear = make("button", { type: "button", className: "clear", on: { click: () => { form.reset(); changed(); } } }, "Clear all");
  form.replaceChildren(...parts, free, clear);
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
}

// A filter that could be written of these columns.
function example(columns) {
  const all = columns.map((column) => {
    const name = /^[A-Za-z_]\w*$/.test(column.name) ? column.name : `\`${column.name}\``;
    if (column.kind === "number" && column.least !== undefined) return `${name} < ${column.greatest}`;
    if (column.kind === "text" && column.values?.length) return `${name} == '${column.values[0].value}'`;
    return column.kind === "truth" ? `not ${name}` : null;
  });
  return all.filter(Boolean).slice(0, 2).join(" and ") || "_id != 'x'";
}

function part(column) {
  const inner = { number: range, date: range, moment: range, truth, text: values, list: values }[column.kind]?.(column);
  return inner && make("fieldset", { data: { column: column.name, kind: column.kind } }, make("legend", {}, column.name), ...inner);
}

function range(column) {
  if (column.least === undefined || column.least === column.greatest) return null;
  const type = { number: "number", date: "date", moment: "datetime-local" }[column.kind];
  return ["least", "greatest"].map((end) =>
    make("label", {}, end === "least" ? "from " : "to ", make("input", { type, step: "any", placeholder: String(column[end]), data: { end } })));
}

function truth(column) {
  const counts = new Map((column.values ?? []).map((each) => [each.value, each.count]));
  const choice = (value, said) => make("option", { value }, said);
  return [make("select", { ariaLabel: column.name }, choice("", "either"), choice("true", `yes (${counts.get(true) ?? 0})`), choice("false", `no (${counts.get(false) ?? 0})`))];
}

function values(column) {
  if (!column.values?.length) return null;
  const box = (each) => make("label", { className: "box" }, make("input", { type: "checkbox", data: { value: JSON.stringify(each.value) } }), " ", String(each.value) || "(empty)", make("span", { className: "count" }, ` ${each.count.toLocaleString("en")}`));
  const boxes = column.values.map(box);
  if (boxes.length <= MANY) return boxes;
  return [...boxes.slice(0, MANY), make("details", {}, make("summary", {}, `${boxes.length - MANY} more`), ...boxes.slice(MANY))];
}

// What is set, as `where` takes it: the JSON of all filters, or the text where one is written; null for none.
export function chosen(form) {
  const all = [...form.querySelectorAll("fieldset[data-column]")].map(condition).filter(Boolean);
  const text = form.querySelector("#where")?.value.trim();
  if (text && !all.length) return text;
  return all.length ? { and: all } : null;
}

// How many are set, and whether a text is written beside them, which cannot go together with them.
export function counted(form) {
  const set = [...form.querySelectorAll("fieldset[data-column]")].filter(condition).length;
  const text = Boolean(form.querySelector("#where")?.value.trim());
  return { set: set || Number(text), both: set > 0 && text };
}

function condition(set) {
  const name = ["and", "or", "not"].includes(set.dataset.column) ? `\`${set.dataset.column}\`` : set.dataset.column;
  const { kind } = set.dataset;
  if (kind === "truth") {
    const { value } = set.querySelector("select");
    return value ? { [name]: value === "true" } : null;
  }
  if (kind === "text" || kind === "list") {
    const picked = [...set.querySelectorAll("input:checked")].map((box) => JSON.parse(box.dataset.value));
    if (!picked.length) return null;
    return kind === "text" ? { [name]: { in: picked } } : { or: picked.map((value) => ({ [name]: { has: value } })) };
  }
  const compared = {};
  for (const input of set.querySelectorAll("input")) {
    if (!input.value) continue;
    compared[input.dataset.end === "least" ? "ge" : "le"] = kind === "number" ? Number(input.value) : input.value.replace("T", " ");
  }
  return Object.keys(compared).length ? { [name]: compared } : null;
}

// Sets the filters as an address has them, and reads them for one.
export function kept(form) {
  const fields = [...form.querySelectorAll("input, select")];
  return fields.map((field) => (field.type === "checkbox" ? Number(field.checked) : field.value)).map((value) => value || "").join("~").replace(/~+$/, "");
}

export function restore(form, text) {
  const values = (text ?? "").split("~");
  [...form.querySelectorAll("input, select")].forEach((field, n) => {
    if (field.type === "checkbox") field.checked = values[n] === "1";
    else field.value = values[n] ?? "";
  });
}
