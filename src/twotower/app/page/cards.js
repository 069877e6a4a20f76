// What was found, as cards: the title, the other columns, how good it is and why.

import { make } from "/page/elements.js";

const SHORT = 40; // characters of a value that stands beside its name; longer ones are lines of their own
const LONG = 90; // of a title
const WHOLE = 320; // of a text that is shown at once
const MOST = 8; // short values shown before the rest is folded away
const LISTED = 12; // values of a list

const names = new Map(); // what an id is called
const wide = new Set(); // columns whose texts have lines of their own: one that was long once looks alike on every card

export const name = (id) => names.get(String(id)) ?? String(id);

// Learns what an item is called; returns the column that says it, null where none does.
export function learn(id, item, served) {
  const column = titled(item, served);
  names.set(String(id), column === null ? String(id) : written(item[column]));
  return column;
}

// The first text of an item; columns of few values, such as a category, name it badly.
function titled(item, served) {
  const texts = served.columns.filter((column) => column.kind === "text" && column.name !== served.item_id);
  const telling = [...texts.filter((column) => !column.values), ...texts.filter((column) => column.values)].map((column) => column.name);
  const filled = telling.filter((column) => item[column]);
  return filled.find((column) => item[column].length <= LONG) ?? filled[0] ?? null;
}

function written(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.slice(0, LISTED).map(written).join(", ") + (value.length > LISTED ? ` … (${value.length})` : "");
  if (typeof value === "object") return JSON.stringify(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 4, useGrouping: false }) : String(value);
}

// The text with the words that a query shares with it marked.
function marked(text, words) {
  if (!words?.length) return [text];
  const shared = new Set(words);
  return text.split(/([\p{L}\p{N}]+)/u).filter(Boolean).map((piece) => (shared.has(piece.toLowerCase()) ? make("mark", {}, piece) : piece));
}

// Looks through results before they are drawn, for columns of long texts.
export function look(results) {
  for (const { item } of results) {
    for (const [column, value] of Object.entries(item)) if (typeof value === "string" && value.length > SHORT) wide.add(column);
  }
}

// What an item is ordered by, in the parts that vectors and words give.
export function parts({ score, why }, mode) {
  if (!why || why.words === null) return { vectors: score, words: 0 };
  return mode === "words" ? { vectors: 0, words: why.words } : { vectors: why.vectors, words: why.words };
}

// Bars are as long as the best of the list lets them be.
export function measure(card, { vectors, words }, best) {
  const share = (value) => `${Math.max(0, Math.min(100, (100 * value) / best))}%`;
  card.querySelector(".bar-vectors").style.width = share(vectors);
  card.querySelector(".bar-words").style.width = share(words);
}

export function card(result, { served, mode, similar, touch }) {
  const { id, item, score, why } = result;
  const title = learn(id, item, served), heading = name(id), words = why?.shared;
  const short = heading === String(id) ? [] : [[served.item_id ?? "id", String(id)]], long = [];
  for (const [column, value] of Object.entries(item)) {
    const text = written(value);
    if (column === title || column === served.item_id || text === "") continue;
    (wide.has(column) ? long : short).push([column, text]);
  }
  const buttons = [make("button", { type: "button", className: "similar", on: { click: () => similar(id) } }, "Similar")];
  if (served.query.history) buttons.push(make("button", { type: "button", on: { click: () => touch(id) } }, "Add to history"));
  for (const button of buttons) button.ariaLabel = `${button.textContent}: ${heading}`;
  const small = listed(short, words);
  return make("li", { tabIndex: -1, data: { id: JSON.stringify(id) } },
    make("article", {},
      make("div", { className: "head" }, make("h3", {}, ...marked(heading, words)), scored(score)),
      ...long.map(([column, text], n) => paragraph(column, text, words, n === 0)),
      ...(why ? small : []),
      make("div", { className: "foot" }, ...(why ? [make("p", { className: "why" }, ...reason(why, mode))] : [make("div", { className: "why" }, ...small)]), ...buttons)));
}

function scored(score) {
  const bar = make("span", { className: "bar", aria: { hidden: "true" } }, make("span", { className: "bar-vectors" }), make("span", { className: "bar-words" }));
  return make("p", { className: "score", title: "Similarity of the vectors; the bar is what orders the list" }, bar, make("span", { className: "unseen" }, "score "), score.toFixed(3));
}

// A long text, cut where it is very long. The first one of a card says by itself what it is.
function paragraph(column, text, words, first) {
  const place = make("p", { className: first ? "long" : "long next" });
  const label = () => make("span", { className: first ? "unseen" : "label" }, first ? `${column}: ` : column, " ");
  const fill = (whole) => place.replaceChildren(label(), ...marked(whole ? text : `${text.slice(0, WHOLE).trimEnd()} … `, words));
  fill(text.length <= WHOLE);
  if (text.length > WHOLE) place.append(make("button", { type: "button", className: "rest", on: { click: () => fill(true) } }, "all of it"));
  place.title = column;
  return place;
}

function listed(pairs, words) {
  if (!pairs.length) return [];
  const list = (some) => make("dl", {}, ...some.map(([column, text]) => make("div", {}, make("dt", {}, column), make("dd", {}, ...marked(text, words)))));
  if (pairs.length <= MOST + 1) return [list(pairs)];
  return [list(pairs.slice(0, MOST)), make("details", {}, make("summary", {}, `${pairs.length - MOST} more`), list(pairs.slice(MOST)))];
}

function reason(why, mode) {
  const dot = (of) => make("span", { className: `dot ${of}`, aria: { hidden: "true" } });
  const said = [dot("dot-vectors"), `vectors ${why.vectors.toFixed(3)}`];
  if (why.words !== null) said.push(" ", dot("dot-words"), mode === "words" ? `words ${why.words.toFixed(2)}` : `words +${why.words.toFixed(3)}`);
  if (why.shared.length) said.push(` · both say ${why.shared.join(", ")}`);
  return said;
}
