// What stands around the results, made of what /info says: the fields of a query, the options, the title and the foot.

import { at, counted, make } from "/page/elements.js";

const MODES = { vectors: "vectors", words: "words", hybrid: "vectors and words" };

export function drawFields(served) {
  const { columns } = served.query, only = columns.length === 1;
  const field = (column) => make("input", {
    name: column, type: "search", placeholder: only ? "What do you look for?" : "", enterKeyHint: "search", spellcheck: false, autocapitalize: "off", maxLength: 2000,
  });
  at("fields").replaceChildren(...columns.map((column) => make("label", { className: only ? "only" : "" }, make("span", {}, only ? "Search" : column), field(column))));
  at("touched").hidden = !served.query.history;
}

export function drawOptions(served, variants) {
  const best = (mode) => (mode === served.search ? " (best on validation)" : "");
  at("mode").replaceChildren(...served.modes.map((mode) => make("option", { value: mode }, MODES[mode] + best(mode))));
  at("variant").replaceChildren(...variants.map((each) => make("option", { value: each.variant, selected: each === served }, each.variant)));
  document.querySelector(".variant").hidden = variants.length < 2;
}

export function describe(served, variants) {
  document.title = at("what").textContent = `Search ${counted(served.items, "item")}`;
  at("about").textContent = `model ${served.model} · catalogue ${served.version} · ${served.dimensions} dimensions, ${served.similarity}`;
  at("card").href = variants.length > 1 ? `/card?variant=${encodeURIComponent(served.variant)}` : "/card";
}

const FOLDS = { filtering: "filters", tuning: "options" }; // what each button unfolds

export const folds = Object.keys(FOLDS);
export const folded = (button) => at(FOLDS[button]).hidden;
export const holds = (button, node) => at(FOLDS[button]).contains(node);

export function fold(button, hidden) {
  at(FOLDS[button]).hidden = hidden;
  at(button).ariaExpanded = String(!hidden);
}
