// Searches while one types. What is asked stands in the address, so that it can be gone back to and passed on.

import { Refused, ask, inWords, unlock } from "/page/asking.js";
import { card, learn, look, measure, name, parts } from "/page/cards.js";
import { at, counted, make } from "/page/elements.js";
import { describe, drawFields, drawOptions, fold, folded, folds, holds } from "/page/frame.js";
import { draw, number, restore, state, text, where } from "/page/filters.js";

const WAIT = 120; // milliseconds after the last key
const NOTED = 15000; // milliseconds that a note stays
const NOTHING = { results: [], asked: null, full: false };

let variants = []; // what /info says
let served; // the one that is asked
let running = null; // the AbortController of the search under way
let shown = NOTHING;
let touched = []; // ids of a history
let like = null; // the item whose neighbours are shown
let timer; // of a search that is about to be
let onto = () => {}; // what follows once a step back is shown
let drawn = new Map(); // the cards that are shown, by what they show

const fields = () => [...document.querySelectorAll("#fields input")];
const cards = () => [...document.querySelectorAll("#results > li")];
const same = (one, other) => one.model === other.model && one.version === other.version;

// --- asking ---

function question() {
  const all = fields();
  if (!all.some((field) => field.value.trim())) return null;
  return all.length === 1 ? all[0].value : Object.fromEntries(all.map((field) => [field.name, field.value.trim() || null]));
}

const amount = () => Math.min(100, Math.max(1, Math.trunc(Number(at("k").value)) || 10));
// Whether a server tells what is behind these: of diverse ones it tells 500.
const goesOn = ({ k, skip = 0, diversity }) => !diversity || skip + 2 * k <= 500;

// What is to be asked: a route and its body; null where there is nothing to ask.
function request() {
  const options = { k: amount() }, narrowed = where(at("filters")), variety = Number(at("diversity").value);
  if (narrowed !== null) options.where = narrowed;
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

// more: go on behind what is shown. push: the address becomes a step of its own. then: what follows once the answer is shown.
async function search({ more = false, push = false, then = () => {} } = {}) {
  clearTimeout(timer);
  running?.abort();
  running = new AbortController();
  const { signal } = running, asked = request();
  remember(push);
  if (!asked) {
    empty();
    return;
  }
  const [path, body] = asked, begun = performance.now();
  if (more) body.skip = shown.results.length;
  at("results").ariaBusy = "true";
  try {
    const told = await ask(path, body, { signal, waiting: (words) => say(words) });
    if (like !== null) await called([like], signal);
    if (signal.aborted) return;
    if (more && !same(told, shown)) {
      search({ then }); // what is shown is of another version, so that this cannot go on behind it
      return;
    }
    at("results").ariaBusy = "false";
    shown = { ...told, asked, results: more ? [...shown.results, ...told.results] : told.results, full: told.results.length === body.k && goesOn(body) };
    fault(null);
    show(more, body.mode ?? served.search);
    say(shown.results.length ? counted(shown.results.length, "item") : "Nothing found", performance.now() - begun);
    then();
    renewed(told).catch(() => {}); // the next answer says it again
  } catch (error) {
    if (signal.aborted) return;
    at("results").ariaBusy = "false";
    if (error.status === 401 && await unlock()) search({ more, then });
    else if (error.status === 422 && await renewed().catch(() => false)) search({ then }); // another model may take another query
    else fault(error);
  }
}

// Looks again at what is served where an answer came from something newer, or where none says; whether it is new.
async function renewed(told) {
  if (told && same(told, served)) return false;
  const before = served;
  await inform();
  if (same(before, served)) return false;
  redraw(before);
  at("note").textContent = before.model === served.model ? `The catalogue has a newer version, ${served.version}.` : `Another model answers now, ${served.model}.`;
  at("note").hidden = false;
  setTimeout(() => { at("note").hidden = true; }, NOTED);
  return true;
}

// --- showing ---

function say(words, milliseconds = null) {
  at("status").textContent = words;
  at("took").textContent = milliseconds === null ? "" : ` · ${Math.max(1, Math.round(milliseconds))} ms`;
}

// What is wrong, beside the filter as text where that is at fault; null where nothing is.
function fault(error) {
  const field = at("where"), wrong = (error instanceof Refused && text(at("filters")) && error.at("where")) || "";
  if (field) {
    field.ariaInvalid = String(Boolean(wrong));
    at("wrong").textContent = wrong;
    at("wrong").hidden = !wrong;
    if (wrong) fold("filtering", false);
  }
  const elsewhere = error && !wrong;
  at("problem").hidden = !elsewhere;
  at("said").textContent = elsewhere ? inWords(error) : "";
  if (error) say("");
}

function empty() {
  shown = NOTHING;
  drawn = new Map();
  at("results").replaceChildren();
  at("results").ariaBusy = "false";
  at("more").hidden = true;
  document.querySelector(".like").hidden = true;
  at("hint").hidden = false;
  fault(null);
  say("");
}

function show(behind, mode) {
  const all = shown.results.map((result) => parts(result, mode));
  const best = Math.max(...all.map(({ vectors, words }) => vectors + words), 1e-9);
  look(shown.results);
  // Cards that were there already stay the same ones, so that nothing flickers while one types.
  const first = behind ? drawn.size : 0, old = drawn;
  drawn = new Map(shown.results.map((result, n) => {
    const told = JSON.stringify([served.variant, mode, result]), kept = old.get(told);
    const node = kept ?? card(result, { served, mode, similar: neighbours, touch });
    node.className = kept ? "" : "new";
    measure(node, all[n], best);
    return [told, node];
  }));
  const nodes = [...drawn.values()];
  if (behind) at("results").append(...nodes.slice(first));
  else at("results").replaceChildren(...nodes);
  at("more").hidden = !shown.full;
  document.querySelector(".like").hidden = like === null;
  at("heading").textContent = like === null ? "" : `Like ${name(like)}`;
  at("hint").hidden = true;
  if (behind) nodes[first]?.focus();
  drawHistory();
}

function neighbours(id) {
  like = id;
  search({ push: true, then: () => { at("heading").focus(); scrollTo({ top: 0 }); } });
}

// Back from the neighbours of an item to where they were asked for, and to that item.
function back() {
  const from = JSON.stringify(like);
  const found = () => (cards().find((each) => each.dataset.id === from) ?? fields()[0])?.focus();
  if (history.state?.within) {
    onto = found;
    history.back();
  } else {
    like = null;
    search({ push: true, then: found });
  }
}

// What ids are called that came by an address, or were typed.
async function called(ids, signal) {
  const unknown = ids.filter((id) => name(id) === String(id) && String(id));
  const path = (id) => `/items/${encodeURIComponent(id)}${variants.length > 1 ? `?variant=${encodeURIComponent(served.variant)}` : ""}`;
  await Promise.allSettled(unknown.map(async (id) => learn(id, (await ask(path(id), null, { signal })).item, served)));
}

function touch(id) {
  touched = [...touched, id];
  drawHistory();
  search({ push: like === null });
  called([id]).then(drawHistory);
}

function drawHistory() {
  const forget = (n) => {
    touched = touched.filter((_, m) => m !== n);
    drawHistory();
    search({ push: like === null });
    at("touch").focus();
  };
  at("history").replaceChildren(...touched.map((id, n) =>
    make("li", {}, name(id), make("button", { type: "button", ariaLabel: `Forget ${name(id)}`, on: { click: () => forget(n) } }, "×"))));
}

// --- the address ---

function remember(push) {
  const kept = new URLSearchParams();
  for (const field of fields()) if (field.value) kept.set(`q.${field.name}`, field.value);
  if (touched.length) kept.set("history", JSON.stringify(touched));
  if (like !== null) kept.set("like", JSON.stringify(like));
  const picked = state(at("filters"));
  if (Object.keys(picked).length) kept.set("filters", JSON.stringify(picked));
  if (text(at("filters"))) kept.set("where", text(at("filters")));
  if (at("mode").value !== served.search) kept.set("mode", at("mode").value);
  if (amount() !== 10) kept.set("k", amount());
  if (at("diversity").value !== "0") kept.set("variety", at("diversity").value);
  if (variants.length > 1) kept.set("variant", served.variant);
  const address = kept.size ? `?${kept}` : location.pathname;
  if (push) history.pushState({ within: like !== null }, "", address);
  else history.replaceState(history.state, "", address);
}

const parsed = (kept, other) => { try { return JSON.parse(kept) ?? other; } catch { return other; } };

function recall() {
  const kept = new URLSearchParams(location.search), ids = parsed(kept.get("history"), []), picked = parsed(kept.get("filters"), {});
  for (const field of fields()) field.value = kept.get(`q.${field.name}`) ?? "";
  touched = served.query.history && Array.isArray(ids) ? ids : [];
  like = parsed(kept.get("like"), null);
  restore(at("filters"), picked, kept.get("where") ?? "");
  at("mode").value = served.modes.includes(kept.get("mode")) ? kept.get("mode") : served.search;
  at("k").value = kept.get("k") ?? "10";
  at("diversity").value = kept.get("variety") ?? "0";
  drawHistory();
  called(touched).then(drawHistory);
  count();
}

// --- the frame ---

async function inform() {
  ({ variants } = await ask("/info", null, { waiting: (words) => say(words) }));
  served = variants.find((each) => each.variant === served?.variant) ?? wanted() ?? variants[0];
  describe(served, variants);
}

function frame() {
  describe(served, variants);
  drawFields(served);
  drawOptions(served, variants);
  draw(at("filters"), served.columns, narrow);
}

const wanted = () => variants.find((each) => each.variant === new URLSearchParams(location.search).get("variant"));

// Another version has other columns, or values: draws again what differs, and leaves alone what somebody is at.
function redraw(before) {
  const differ = (part) => JSON.stringify(part(before)) !== JSON.stringify(part(served));
  if (differ((each) => [each.query, each.modes, each.search])) {
    frame();
    recall();
  } else if (differ((each) => each.columns) && !at("filters").contains(document.activeElement)) {
    const picked = state(at("filters")), typed = text(at("filters"));
    draw(at("filters"), served.columns, narrow);
    restore(at("filters"), picked, typed);
  }
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(search, WAIT);
}

function narrow() {
  count();
  soon();
}

// What is set, beside what sets it.
function count() {
  const set = number(at("filters"));
  at("narrowed").textContent = set ? ` (${set})` : "";
  at("varied").textContent = Number(at("diversity").value) ? at("diversity").value : "off";
}

// --- keys ---

function escape(event) {
  const open = folds.find((each) => holds(each, event.target));
  if (!open && like === null && !event.target.closest("#found")) return;
  event.preventDefault();
  if (open) {
    fold(open, true);
    at(open).focus();
  } else if (like !== null) {
    back();
  } else {
    fields()[0]?.focus();
  }
}

function walk(event, by) {
  const all = cards(), here = all.indexOf(event.target.closest("#results > li"));
  if (here < 0 && (by < 0 || !event.target.closest("#ask, #found"))) return;
  event.preventDefault();
  if (here + by < 0) (fields()[0] ?? at("touch")).focus();
  else (all[here + by] ?? at("more")).focus();
}

function keys(event) {
  if (at("locked").open || event.ctrlKey || event.metaKey || event.altKey || !(event.target instanceof Element)) return;
  const typing = event.target.matches("input:not([type=checkbox], [type=range]), select, textarea");
  if (event.key === "/" && !typing) {
    const first = fields()[0] ?? at("touch");
    event.preventDefault();
    first.focus();
    first.select();
  } else if (event.key === "Escape") escape(event);
  else if (event.key === "ArrowDown") walk(event, 1);
  else if (event.key === "ArrowUp") walk(event, -1);
  else if (event.key === "Enter" && event.target.matches("#results > li")) event.target.querySelector(".similar").click();
}

// --- listening ---

function asked(event) {
  event.preventDefault();
  const id = at("touch").value.trim();
  if (document.activeElement === at("touch") && id) {
    at("touch").value = "";
    touch(id);
    return;
  }
  like = null;
  search();
}

function changed(event) {
  if (event.target === at("touch")) return;
  like = null;
  soon();
}

function chosen() {
  served = variants.find((each) => each.variant === at("variant").value);
  like = null;
  remember(true);
  frame();
  recall();
  search();
}

function stepped() {
  if (wanted() && wanted() !== served) {
    served = wanted();
    frame();
  }
  recall();
  search({ then: onto });
  onto = () => {};
}

function listen() {
  at("ask").addEventListener("input", changed);
  at("ask").addEventListener("submit", asked);
  for (const form of [at("filters"), at("options")]) {
    form.addEventListener("input", narrow);
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  for (const each of folds) at(each).addEventListener("click", () => fold(each, !folded(each)));
  at("back").addEventListener("click", back);
  at("more").addEventListener("click", () => search({ more: true }));
  at("again").addEventListener("click", () => search());
  at("variant").addEventListener("change", chosen);
  document.addEventListener("keydown", keys);
  addEventListener("popstate", stepped);
  addEventListener("online", () => { if (!at("problem").hidden) search(); });
}

async function begin() {
  try {
    await inform();
  } catch (error) {
    if (error.status === 401 && await unlock()) return begin();
    fault(error);
    at("again").addEventListener("click", begin, { once: true });
    return undefined;
  }
  frame();
  listen();
  recall();
  if (number(at("filters")) && matchMedia("(min-width: 62rem)").matches) fold("filtering", false);
  if (!location.search) fields()[0]?.focus();
  return search();
}

begin();
