// Filters made of the columns that /info tells of, and the `where` that a search takes for them.

import { make } from "/page/elements.js";

const MANY = 8; // values shown before the rest is folded away
const TYPES = { number: "number", date: "date", moment: "datetime-local", clock: "time" };
const NAME = /^[\p{L}_][\p{L}\p{N}_]*$/u;
const WORDS = ["and", "or", "not", "in", "is", "null", "true", "false"];

// Draws the filters of these columns. Those of which nothing can be chosen are left to the filter as text.
export function draw(form, columns, cleared) {
  const text = make("input", { id: "where", placeholder: example(columns), spellcheck: false, autocapitalize: "off", maxLength: 4096, aria: { describedby: "nameable wrong" } });
  const names = columns.filter((column) => column.kind !== "other").map((column) => spelled(column.name));
  form.replaceChildren(
    ...columns.map(part).filter(Boolean),
    make("div", { className: "free" },
      make("label", { htmlFor: "where" }, "As text"), text,
      make("p", { id: "wrong", role: "alert", hidden: true }),
      make("p", { id: "nameable", className: "quiet" }, names.length ? `Columns: ${names.join(", ")}` : "")),
    make("button", { type: "button", className: "clear", on: { click: () => { restore(form, {}, ""); cleared(); } } }, "Clear all"));
}

// A filter that could be written of these columns.
function example(columns) {
  const all = columns.map((column) => {
    const name = spelled(column.name);
    if (column.kind === "number" && column.least !== undefined) return `${name} < ${column.greatest}`;
    if (column.kind === "text" && column.values?.length) return `${name} == ${literal(column.values[0].value)}`;
    return column.kind === "truth" ? `not ${name}` : null;
  });
  return all.filter(Boolean).slice(0, 2).join(" and ") || "_id != 'x'";
}

function part(column) {
  const inner = (column.kind in TYPES ? range : { truth, text: values, list: values }[column.kind])?.(column);
  return inner && make("fieldset", { data: { column: column.name, kind: column.kind } }, make("legend", {}, column.name), ...inner);
}

function range(column) {
  if (column.least === undefined || column.least === column.greatest) return null;
  const type = TYPES[column.kind];
  const field = (end, said) => make("label", {}, said, make("input", { type, step: "any", placeholder: String(column[end]), data: { end } }));
  const fields = [field("least", "from"), field("greatest", "to")];
  // A field of dates shows no placeholder, so the range is told beside it.
  return type === "number" ? fields : [...fields, make("p", { className: "quiet" }, `${column.least} to ${column.greatest}`)];
}

function truth(column) {
  const counts = new Map((column.values ?? []).map((each) => [each.value, each.count]));
  const choice = (value, said) => make("option", { value }, said);
  const said = (value, word) => `${word} (${(counts.get(value) ?? 0).toLocaleString("en")})`;
  return [make("select", { aria: { label: column.name } }, choice("", "either"), choice("true", said(true, "yes")), choice("false", said(false, "no")))];
}

function box(value, count) {
  const said = value === "" ? "(empty)" : String(value);
  return make("label", { className: "box" },
    make("input", { type: "checkbox", data: { value: JSON.stringify(value) } }), make("span", {}, said),
    make("span", { className: "count" }, count === undefined ? "" : count.toLocaleString("en")));
}

function values(column) {
  if (!column.values?.length) return null;
  const boxes = column.values.map((each) => box(each.value, each.count));
  if (boxes.length <= MANY + 1) return boxes;
  return [...boxes.slice(0, MANY), make("details", {}, make("summary", {}, `${boxes.length - MANY} more`), ...boxes.slice(MANY))];
}

const parts = (form) => [...form.querySelectorAll("fieldset[data-column]")];
const written = (form) => form.querySelector("#where")?.value.trim() ?? "";

// What is set, by column: a list of values, true or false, or the ends of a range as they were typed.
export function state(form) {
  return Object.fromEntries(parts(form).map((set) => [set.dataset.column, picked(set)]).filter(([, value]) => value !== null));
}

function picked(set) {
  const { kind } = set.dataset;
  if (kind === "truth") {
    const { value } = set.querySelector("select");
    return value ? value === "true" : null;
  }
  if (!(kind in TYPES)) {
    const found = [...set.querySelectorAll("input:checked")].map((each) => JSON.parse(each.dataset.value));
    return found.length ? found : null;
  }
  const ends = [...set.querySelectorAll("input")].filter((input) => input.value).map((input) => [input.dataset.end, input.value]);
  return ends.length ? Object.fromEntries(ends) : null;
}

// Sets the filters to such a state, and the text; what no filter is there for is passed over.
export function restore(form, kept, text) {
  for (const set of parts(form)) {
    const value = kept[set.dataset.column] ?? null, { kind } = set.dataset;
    if (kind === "truth") set.querySelector("select").value = value === null ? "" : String(value);
    else if (kind in TYPES) for (const input of set.querySelectorAll("input")) input.value = value?.[input.dataset.end] ?? "";
    else check(set, Array.isArray(value) ? value : []);
  }
  const field = form.querySelector("#where");
  if (field) field.value = text;
}

function check(set, wanted) {
  const left = new Set(wanted.map((value) => JSON.stringify(value)));
  for (const input of set.querySelectorAll("input")) input.checked = left.delete(input.dataset.value);
  // A value that the catalogue no longer has still narrows, so it is shown.
  for (const value of left) {
    set.append(box(JSON.parse(value)));
    set.lastChild.querySelector("input").checked = true;
  }
}

export const text = written;
export const number = (form) => Object.keys(state(form)).length + (written(form) ? 1 : 0);

// What is set as `where` takes it: JSON, or one text where a filter is written as text too; null for none.
export function where(form) {
  const all = parts(form).map((set) => [set.dataset.column, set.dataset.kind, picked(set)]).filter(([, , value]) => value !== null);
  const typed = written(form);
  if (typed) return [all.length ? `(${typed})` : typed, ...all.map((each) => asText(...each))].join(" and ");
  return all.length ? { and: all.map((each) => asJson(...each)) } : null;
}

const SIGNS = { least: ["ge", ">="], greatest: ["le", "<="] };
const bound = (kind, value) => (kind === "number" ? Number(value) : value.replace("T", " "));

function asJson(column, kind, value) {
  const name = ["and", "or", "not"].includes(column) ? `\`${column}\`` : column;
  if (kind === "truth") return { [name]: value };
  if (kind === "text") return { [name]: { in: value } };
  if (kind === "list") return { or: value.map((each) => ({ [name]: { has: each } })) };
  return { [name]: Object.fromEntries(Object.entries(value).map(([end, typed]) => [SIGNS[end][0], bound(kind, typed)])) };
}

function asText(column, kind, value) {
  const name = spelled(column);
  if (kind === "truth") return value ? name : `${name} == false`;
  if (kind === "text") return `${name} in [${value.map(literal).join(", ")}]`;
  if (kind === "list") return `(${value.map((each) => `${literal(each)} in ${name}`).join(" or ")})`;
  return Object.entries(value).map(([end, typed]) => `${name} ${SIGNS[end][1]} ${literal(bound(kind, typed))}`).join(" and ");
}

const literal = (value) => (typeof value === "string" ? `'${value.replace(/[\\']/g, "\\$&")}'` : String(value));
const spelled = (name) => (NAME.test(name) && !WORDS.includes(name.toLowerCase()) ? name : `\`${name.replaceAll("`", "``")}\``);
