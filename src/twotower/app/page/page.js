// Searches while one types. Everything that comes from the server is put on the page as text, never as HTML.

import { chosen, counted, draw, kept, make, restore } from "/page/filters.js";

const at = (id) => document.getElementById(id);
const WAIT = 120; // milliseconds after the last key
const LONG = 90; // characters of a value that stands by itself
const RETRIES = 3;

let variants = []; // what /info says
let served; // the one that is asked
let running = null; // the AbortController of the search under way
let shown = { results: [], version: null, asked: null };
let touched = []; // ids of a history
let like = null; // the item whose neighbours are shown

// --- asking ---

class Refused extends Error {
  constructor(status, told, wait) {
    super(told.detail ?? "the server did not answer");
    this.status = status;
    this.faults = told.errors ?? [];
    this.wait = wait;
  }
}

async function ask(path, body, signal) {
  const headers = body ? { "content-type": "application/json" } : {};
  const key = sessionStorage.getItem("key");
  if (key) headers.authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (answer.ok) return answer.json();
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told, Number(answer.headers.get("retry-after")) || 1);
}

async function patiently(path, body, signal) {
  for (let n = 0; ; n += 1) {
    try {
      return await ask(path, body, signal);
    } catch (error) {
      if (![429, 503].includes(error.status) || n === RETRIES) throw error;
      say(`The server is busy; asking again in ${error.wait} s …`);
      await new Promise((done, stop) => {
        const timer = setTimeout(done, 1000 * error.wait);
        signal?.addEventListener("abort", () => { clearTimeout(timer); stop(new DOMException("", "AbortError")); });
      });
    }
  }
}

function unlock() {
  return new Promise((done) => {
    at("locked").showModal();
    at("locked").addEventListener("close", () => {
      sessionStorage.setItem("key", at("key").value);
      at("key").value = "";
      done();
    }, { once: true });
  });
}

function question() {
  const fields = [...document.querySelectorAll("#fields input")];
  const given = fields.filter((field) => field.value.trim());
  if (!given.length) return null;
  if (fields.length === 1) return fields[0].value;
  return Object.fromEntries(fields.map((field) => [field.name, field.value.trim() || null]));
}

function request() {
  const options = { k: Number(at("k").value) || 10 };
  const where = chosen(at("filters")), variety = Number(at("diversity").value);
  if (where) options.where = where;
  if (variety) options.diversity = variety;
  if (variants.length > 1) options.variant = served.variant;
  if (like !== null) return ["/similar", { item: like, ...options }];
  const query = question();
  if (query === null && !touched.length) return null;
  if (query !== null) options.query = query;
  if (touched.length) options.history = touched;
  if (at("mode").value !== served.search) options.mode = at("mode").value;
  return ["/search", { ...options, explain: true }];
}

async function search({ more = false, push = false } = {}) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const asked = request();
  remember(push);
  if (!asked) {
    shown = { results: [], version: null, asked: null };
    clear();
    return;
  }
  const [path, body] = asked;
  if (more) body.skip = shown.results.length;
  const begun = performance.now();
  try {
    const told = await patiently(path, body, signal);
    const changed = shown.version && (told.version !== shown.version || told.model !== shown.model);
    const results = more && !changed ? [...shown.results, ...told.results] : told.results;
    shown = { results, version: told.version, model: told.model, asked, full: told.results.length === body.k };
    problem(null);
    show(more && !changed ? told.results : results, more && !changed);
    const took = Math.max(1, Math.round(performance.now() - begun));
    const n = results.length;
    say(`${n ? `${n} item${n === 1 ? "" : "s"}` : "Nothing found"} · ${took} ms${changed ? " · the catalogue has changed" : ""}`);
    if (changed) await inform();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401) {
      await unlock();
      search({ more });
      return;
    }
    say("");
    problem(error);
  }
}

// --- showing ---

const say = (text) => { at("status").textContent = text; };

function problem(error) {
  const place = at("problem");
  place.hidden = !error;
  if (!error) return;
  const busy = [429, 503].includes(error.status);
  const words = error.status ? error.message : "The server cannot be reached. Is it still running?";
  place.textContent = [busy ? "The server is busy. Try again in a moment." : words[0].toUpperCase() + words.slice(1), ...(error.faults ?? []).map((fault) => fault.detail)].join(". ");
}

function clear() {
  at("results").replaceChildren();
  at("more").hidden = true;
  at("heading").textContent = "";
  at("back").hidden = true;
  at("hint").hidden = false;
  problem(null);
  say("");
}

function title(item) {
  const texts = served.columns.filter((column) => column.kind === "text" && column.name !== served.item_id);
  const name = texts.map((column) => column.name).find((column) => item[column] && String(item[column]).length <= LONG);
  return name ?? texts.map((column) => column.name).find((column) => item[column]) ?? null;
}

function written(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(written).join(", ");
  if (typeof value === "object") return JSON.stringify(value);
  return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 4 }) : String(value);
}

// The text with the words that a query shares with it marked.
function marked(text, words) {
  if (!words?.length) return [text];
  const exact = new Set(words);
  return text.split(/([\p{L}\p{N}]+)/u).filter(Boolean).map((piece) => (exact.has(piece.toLowerCase()) ? make("mark", {}, piece) : piece));
}

function show(results, behind) {
  const best = Math.max(...shown.results.map((result) => Math.abs(result.score)), 1e-9);
  const cards = results.map((result) => card(result, best));
  if (behind) at("results").append(...cards);
  else at("results").replaceChildren(...cards);
  at("more").hidden = !shown.full;
  at("heading").textContent = like === null ? "" : `Like ${name(like)}`;
  at("back").hidden = like === null;
  at("hint").hidden = true;
  if (behind) cards[0]?.focus();
}

const names = new Map();
const name = (id) => names.get(String(id)) ?? String(id);

function card(result, best) {
  const { id, item, score, why } = result;
  const first = title(item), words = why?.shared;
  const heading = first ? written(item[first]) : written(id);
  names.set(String(id), heading);
  const small = [], long = [];
  for (const [column, value] of Object.entries(item)) {
    const text = written(value);
    if (column === first || !text || column === served.item_id) continue;
    (text.length > LONG ? long : small).push([column, text]);
  }
  const bar = make("meter", { min: 0, max: 1, value: Math.max(0, score / best), ariaHidden: "true" });
  const parts = [`similarity ${why ? why.vectors.toFixed(3) : score.toFixed(3)}`];
  if (why?.words) parts.push(`words +${why.words.toFixed(3)}`);
  if (words?.length) parts.push(`shares ${words.join(", ")}`);
  const buttons = [make("button", { type: "button", on: { click: () => neighbours(id) } }, "Similar")];
  if (served.query.history) buttons.push(make("button", { type: "button", on: { click: () => touch(id) } }, "Add to history"));
  for (const button of buttons) button.ariaLabel = `${button.textContent}: ${heading}`;
  return make("li", { tabIndex: -1 },
    make("article", {},
      make("div", { className: "head" }, make("h2", {}, ...marked(heading, words)), make("p", { className: "score", title: "similarity of the vectors" }, bar, score.toFixed(3))),
      ...long.map(([column, text]) => make("p", { className: "long", title: column }, ...marked(text, words))),
      small.length || heading !== written(id) ? make("dl", {}, ...[...(heading !== written(id) ? [["id", written(id)]] : []), ...small].map(([column, text]) => make("div", {}, make("dt", {}, column), make("dd", {}, ...marked(text, words))))) : null,
      make("div", { className: "foot" }, make("p", { className: "why" }, parts.join(" · ")), ...buttons)));
}

function neighbours(id) {
  like = id;
  search({ push: true });
  at("heading").focus();
}

function touch(id) {
  touched = [...touched, id];
  drawHistory();
  search({ push: true });
}

function drawHistory() {
  at("history").replaceChildren(...touched.map((id, n) => make("li", {}, name(id), " ",
    make("button", { type: "button", ariaLabel: `Forget ${name(id)}`, on: { click: () => { touched = touched.filter((_, m) => m !== n); drawHistory(); search({ push: true }); } } }, "×"))));
}

// --- the address ---

function remember(push) {
  const state = new URLSearchParams();
  for (const field of document.querySelectorAll("#fields input")) if (field.value) state.set(`q.${field.name}`, field.value);
  if (touched.length) state.set("history", JSON.stringify(touched));
  if (like !== null) state.set("like", JSON.stringify(like));
  if (kept(at("filters"))) state.set("f", kept(at("filters")));
  if (at("mode").value !== served.search) state.set("mode", at("mode").value);
  if (at("k").value !== "10") state.set("k", at("k").value);
  if (at("diversity").value !== "0") state.set("variety", at("diversity").value);
  if (variants.length > 1) state.set("variant", served.variant);
  const address = state.size ? `?${state}` : location.pathname;
  if (push) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

const parsed = (text, other) => { try { return text === null ? other : JSON.parse(text); } catch { return other; } };

function recall() {
  const state = new URLSearchParams(location.search);
  for (const field of document.querySelectorAll("#fields input")) field.value = state.get(`q.${field.name}`) ?? "";
  touched = parsed(state.get("history"), []);
  like = parsed(state.get("like"), null);
  restore(at("filters"), state.get("f"));
  at("mode").value = served.modes.includes(state.get("mode")) ? state.get("mode") : served.search;
  at("k").value = state.get("k") ?? "10";
  at("diversity").value = state.get("variety") ?? "0";
  drawHistory();
  said();
}

// --- the frame ---

async function inform() {
  const told = await patiently("/info");
  variants = told.variants;
  const wanted = new URLSearchParams(location.search).get("variant") ?? served?.variant;
  served = variants.find((each) => each.variant === wanted) ?? variants[0];
  at("what").textContent = `${served.items.toLocaleString("en")} items`;
  at("about").textContent = `model ${served.model} · catalogue ${served.version} · ${served.dimensions} dimensions, ${served.similarity}`;
  at("card").href = variants.length > 1 ? `/card?variant=${encodeURIComponent(served.variant)}` : "/card";
}

const MODES = { vectors: "vectors", words: "words", hybrid: "both" };

function frame() {
  const { columns } = served.query;
  at("fields").replaceChildren(...columns.map((column, n) =>
    make("label", { className: columns.length === 1 ? "only" : "" }, make("span", {}, columns.length === 1 ? "Search" : column),
      make("input", { name: column, type: "search", autofocus: n === 0, enterKeyHint: "search", spellcheck: false, maxLength: 2000 }))));
  at("touched").hidden = !served.query.history;
  at("mode").replaceChildren(...served.modes.map((mode) => make("option", { value: mode }, MODES[mode] + (mode === served.search ? " (best on validation)" : ""))));
  at("variant").replaceChildren(...variants.map((each) => make("option", { value: each.variant, selected: each === served }, each.variant)));
  document.querySelector(".variant").hidden = variants.length < 2;
  draw(at("filters"), served.columns, narrow);
}

let timer;
const soon = () => { clearTimeout(timer); timer = setTimeout(() => search(), WAIT); };

function narrow() {
  said();
  soon();
}

function said() {
  const { set, both } = counted(at("filters"));
  at("narrowed").textContent = set ? ` (${set})` : "";
  at("where")?.setCustomValidity(both ? "Leave out the other filters: the text stands alone." : "");
  at("where")?.reportValidity();
  at("varied").textContent = Number(at("diversity").value) ? at("diversity").value : "off";
}

function unfold(button, form) {
  button.addEventListener("click", () => {
    form.hidden = !form.hidden;
    button.ariaExpanded = String(!form.hidden);
  });
}

function keys(event) {
  const typing = event.target.matches("input:not([type=checkbox], [type=range]), select, textarea");
  const first = document.querySelector("#fields input") ?? at("touch");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    first.focus();
    first.select();
  } else if (event.key === "Escape" && like !== null) {
    history.back();
  } else if (["ArrowDown", "ArrowUp"].includes(event.key) && (event.target === first || event.target.closest?.("#results"))) {
    const cards = [...document.querySelectorAll("#results > li")];
    const here = cards.indexOf(event.target.closest?.("#results > li")) + (event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
    if (here < 0) first.focus();
    else cards[Math.min(here, cards.length - 1)]?.focus();
  } else if (event.key === "Enter" && event.target.matches("#results > li")) {
    event.target.querySelector("button").click();
  }
}

function scheme(dark) {
  document.documentElement.dataset.scheme = dark ? "dark" : "light";
  at("scheme").ariaPressed = String(dark);
}

function listen() {
  at("ask").addEventListener("input", (event) => { if (event.target !== at("touch")) { like = null; soon(); } });
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (document.activeElement === at("touch") && at("touch").value.trim()) {
      const id = at("touch").value.trim();
      at("touch").value = "";
      touch(id);
    } else {
      like = null;
      clearTimeout(timer);
      search({ push: true });
    }
  });
  at("options").addEventListener("input", narrow);
  at("options").addEventListener("submit", (event) => event.preventDefault());
  at("back").addEventListener("click", () => {
    like = null;
    search({ push: true });
  });
  at("more").addEventListener("click", () => search({ more: true }));
  at("variant").addEventListener("change", () => {
    served = variants.find((each) => each.variant === at("variant").value);
    remember(false);
    inform().then(() => { frame(); recall(); search(); });
  });
  unfold(at("filtering"), at("filters"));
  unfold(at("tuning"), at("options"));
  document.addEventListener("keydown", keys);
  addEventListener("popstate", () => { recall(); search(); });
  at("scheme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.scheme !== "dark";
    localStorage.setItem("scheme", dark ? "dark" : "light");
    scheme(dark);
  });
}

async function begin() {
  const kept = localStorage.getItem("scheme");
  scheme(kept ? kept === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  try {
    await inform();
  } catch (error) {
    if (error.status === 401) {
      await unlock();
      return begin();
    }
    problem(error);
    return undefined;
  }
  frame();
  listen();
  recall();
  document.title = `Search ${served.items.toLocaleString("en")} items`;
  search();
  return undefined;
}

begin();
