"use strict";
// One record on the screen, the next one already leased: a press shows it at once, while the answer goes to Kafka.

const filters = Object.fromEntries([...new URLSearchParams(location.search)].filter(([name, value]) => value && name !== "lang"));
const COUNTS_EVERY_MS = 2000;
const RETRY_MS = 2000;

let current = null; // what the last lease gave, or null when nothing is left
let ahead = null; // a promise of the next one
let answered = []; // decision ids in the order of my answers, for undo
let note = "";
let marked = null; // the path of the field that is said to be wrong
let busy = false;
let inFlight = null; // the last answer on its way
let correcting = null; // the lease that the open correction belongs to

// --- asking

const place = (lease, act) => `/api/decisions/${encodeURIComponent(lease.decision_id)}/${act}`;

async function nextLease() {
  const found = await ask("POST", "/api/lease", filters);
  return found.decision_id === null ? null : {...found, taken: Date.now()};
}

// --- showing

// controls, bidirectional marks and invisible characters are named, never obeyed
const ODD = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffd])/u;

function plain(text) {
  const found = make("bdi", {dir: "auto"});
  for (const piece of text.split(ODD)) {
    if (piece === "") continue;
    if (ODD.test(piece)) {
      const code = "U+" + piece.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      found.append(make("span", {class: "odd", title: code}, code));
    } else found.append(piece);
  }
  return found;
}

function fact(name, value) {
  return make("span", {}, `${name} `, make("b", {}, plain(String(value))));
}

function fieldRow(field) {
  const pick = make("button", {type: "button", class: "pick", "aria-pressed": "false", title: words.mark_field}, plain(field.path));
  pick.addEventListener("click", () => mark(pick, field.path));
  const heading = make("th", {scope: "row"}, pick);
  const cell = make("td", {class: "value"}, plain(field.value));
  const row = make("tr", {}, heading, cell);
  if (field.characters > field.value.length) cell.append(make("div", {class: "more"}, `${words.cut} ${field.characters}`));
  if (field.weight !== null) {
    row.className = "suspect";
    const share = Math.round(field.weight * 100);
    heading.append(make("span", {class: "weight"}, `${words.suspect} ${share} % `, make("meter", {min: 0, max: 1, value: field.weight, "aria-label": `${words.suspect} ${share} %`})));
  }
  return row;
}

// which field is wrong, as far as the reviewer says: travels with the verdict
function mark(pick, path) {
  marked = marked === path ? null : path;
  for (const other of document.querySelectorAll(".pick")) other.setAttribute("aria-pressed", "false");
  pick.setAttribute("aria-pressed", String(marked !== null));
}

function show(lease) {
  current = lease;
  marked = null;
  note = ""; // it was meant for the record that leaves the screen
  byId("note").value = "";
  const main = byId("record");
  main.setAttribute("aria-busy", "false");
  for (const button of document.querySelectorAll("#actions [data-act]")) {
    button.disabled = lease === null && !["undo", "help"].includes(button.dataset.act);
  }
  if (lease === null) {
    const again = make("button", {type: "button"}, words.skipped_again);
    again.addEventListener("click", async () => { await ask("POST", "/api/skips/forget", {}); refill(); });
    main.replaceChildren(make("div", {class: "nothing"}, make("p", {}, words.nothing), again));
    return;
  }
  const record = lease.record;
  const facts = make("p", {class: "facts"});
  if (record.blind) facts.append(make("span", {class: "blind"}, words.blind));
  else {
    if (record.p_chosen !== null) facts.append(fact(words.p_chosen, record.p_chosen.toFixed(3)), fact(words.threshold, record.threshold.toFixed(3)));
    facts.append(fact(words.reason, record.reason));
    if (record.model !== null) facts.append(fact(words.model, record.model));
  }
  if (record.look > 1) facts.append(fact(words.look, words[`look_${record.look}`]));
  if (record.key !== null) facts.append(fact(words.key, record.key));
  facts.append(fact(words.time, new Date(record.timestamp_ms).toLocaleString(document.documentElement.lang)), fact(words.size, `${record.bytes} ${words.bytes}`));
  if (record.reached_clean) facts.append(make("span", {class: "blind"}, words.on_clean));
  const head = make("thead", {}, make("tr", {}, make("th", {scope: "col"}, words.field), make("th", {scope: "col"}, words.value)));
  const table = make("table", {}, head, make("tbody", {}, ...record.fields.map(fieldRow)));
  const parts = [make("h2", {class: "more"}, lease.decision_id), facts, table];
  if (record.problems && record.problems.length) parts.push(make("p", {class: "more"}, `${words.problems}: `, plain(record.problems.join("; "))));
  if (record.earlier.length) {
    const list = make("ul", {});
    for (const each of record.earlier) list.append(make("li", {}, `${new Date(each.timestamp_ms).toLocaleString(document.documentElement.lang)} · ${words[each.source] || each.source} · `, plain(each.text)));
    parts.push(make("section", {class: "earlier"}, make("h2", {}, words.earlier), list));
  }
  main.replaceChildren(...parts);
}

function say(text) { byId("said").textContent = text; byId("wrong-said").textContent = ""; }

function complain(text, decisionId) {
  const alert = byId("wrong-said");
  alert.textContent = text + " ";
  if (decisionId) {
    const again = make("button", {type: "button"}, words.again);
    again.addEventListener("click", () => reopen(decisionId));
    alert.append(again);
  }
}

// --- going on

function fetchAhead() {
  ahead = nextLease().catch(() => undefined);
}

async function goOn() {
  const waiting = ahead;
  ahead = null;
  let lease = waiting === null ? undefined : await waiting;
  if (lease === undefined || lease === null) lease = await nextLease();
  show(lease);
  if (lease !== null) fetchAhead();
}

// one at a time: two would lease two records and show only one of them
async function refill() {
  if (busy) return;
  busy = true;
  try { await goOn(); } catch (error) { complain(error.message); } finally { busy = false; }
}

async function answer(verdict, correction, corrected = current) {
  if (current === null || busy) return;
  const lease = corrected;
  const said = {lease: lease.lease, verdict, note};
  if (correction !== undefined) said.correction = correction;
  if (verdict === "wrong" && marked !== null && lease === current) said.field = marked;
  if (correction !== undefined) { // rules may refuse a correction: wait before going on
    busy = true;
    try { tell(lease, verdict, await ask("POST", place(lease, "verdict"), said)); } finally { busy = false; }
    if (current === lease) await refill();
    return;
  }
  answered.push(lease.decision_id);
  inFlight = ask("POST", place(lease, "verdict"), said).then((done) => tell(lease, verdict, done, true), (error) => {
    answered = answered.filter((id) => id !== lease.decision_id);
    complain(`${error.status === 409 ? words.lost : words.failed}: ${error.message}`, lease.decision_id);
  });
  await refill();
}

function tell(lease, verdict, done, isKnown) {
  if (!isKnown) answered.push(lease.decision_id);
  let text = `${lease.decision_id}: ${words[verdict]}`;
  if (done.released) text += ` · ${words.released}`;
  if (done.was_on_clean) text += ` · ${words.was_on_clean}`;
  say(text);
  counts();
}

async function letGo(lease) {
  // a browser lets a request of up to 64 KiB outlive its page
  if (lease) await ask("POST", place(lease, "return"), {lease: lease.lease}, true).catch(() => undefined);
}

async function skip() {
  if (current === null || busy) return;
  const lease = current;
  current = null;
  await ask("POST", place(lease, "skip"), {lease: lease.lease}).catch(() => undefined);
  await refill();
}

async function reopen(decisionId) {
  if (busy) return;
  busy = true;
  const before = current;
  try {
    const lease = await ask("POST", `/api/decisions/${encodeURIComponent(decisionId)}/lease`, {});
    if (before !== null && before.decision_id !== decisionId) await letGo(before);
    show({...lease, taken: Date.now()});
    byId("record").focus();
  } catch (error) { complain(error.message, decisionId); } finally { busy = false; }
}

async function undo() {
  if (busy) return;
  await inFlight; // what is on its way to Kafka can be taken up again when it has come back
  if (busy) return;
  const last = answered.pop();
  if (last === undefined) say(words.undo_nothing);
  else await reopen(last);
}

async function correct() {
  if (current === null || busy) return;
  const lease = current;
  const {text} = await ask("GET", place(lease, "value"));
  if (current !== lease) return; // answered meanwhile
  correcting = lease;
  byId("correction").value = text;
  byId("correct-said").textContent = "";
  byId("correct-dialog").showModal();
}

async function saveCorrection(event) {
  event.preventDefault();
  try {
    await answer("wrong", byId("correction").value, correcting);
    byId("correct-dialog").close();
  } catch (error) { byId("correct-said").textContent = error.message; }
}

// --- lists

function list(title, ...parts) {
  byId("list-title").textContent = title;
  byId("list").replaceChildren(...parts);
  if (!byId("list-dialog").open) byId("list-dialog").showModal();
}

async function history() {
  if (current === null) return;
  try {
    const {verdicts, reached_clean} = await ask("GET", place(current, "history"));
    const rows = verdicts.map((each) => make("li", {}, `${new Date(each.time_ms).toLocaleString(document.documentElement.lang)} · ${each.reviewer} · ${words[each.verdict]}${each.corrected ? ` · ${words.corrected}` : ""} `, plain(each.note)));
    list(words.history, rows.length ? make("ul", {}, ...rows) : make("p", {}, words.no_history), reached_clean ? make("p", {}, words.on_clean) : "");
  } catch (error) { list(words.history, make("p", {}, error.message)); }
}

function help() {
  const rows = [...document.querySelectorAll("#actions button")].map((button) => make("li", {}, button.textContent));
  list(words.keys_title, make("ul", {}, ...rows));
}

async function bulk() {
  const {groups, kappa, answered_twice} = await ask("GET", "/api/groups");
  const head = make("thead", {}, make("tr", {}, ...[words.reason, words.pattern, words.count, words.bulk].map((text) => make("th", {scope: "col"}, text))));
  const rows = groups.map((group) => {
    const buttons = ["right", "wrong"].map((verdict) => {
      const button = make("button", {type: "button", class: `act ${verdict}`}, words[verdict]);
      button.addEventListener("click", () => answerMany(group, verdict));
      return button;
    });
    return make("tr", {}, make("td", {}, plain(group.reason)), make("td", {}, plain(group.pattern)), make("td", {}, String(group.count)), make("td", {}, ...buttons));
  });
  const agreement = make("p", {class: "more"}, `${words.kappa}: ${kappa === null ? "–" : kappa} (${answered_twice} ${words.answered_twice})`);
  list(words.bulk_title, make("table", {}, head, make("tbody", {}, ...rows)), agreement);
}

async function answerMany(group, verdict) {
  if (!confirm(`${words.bulk_confirm} ${group.count} · ${words[verdict]}\n${group.reason}\n${group.pattern}`)) return;
  try {
    const done = await ask("POST", "/api/bulk", {...group, verdict});
    byId("list-dialog").close();
    say(`${words.answered}: ${done.answered}`);
    await letGo(current);
    await refill();
  } catch (error) { list(words.bulk_title, make("p", {role: "alert"}, error.message)); }
}

// --- what lives on by itself

async function counts() {
  if (document.hidden) return;
  try {
    const found = await ask("GET", "/api/counts");
    for (const [name, count] of Object.entries(found)) {
      const shown = byId(`count-${name}`);
      if (shown) shown.textContent = count;
    }
    byId("for-another").textContent = found.for_another ? `${words.for_another} ${found.for_another}. ${words.for_another_why}` : "";
    if (current === null && !busy && found.open > found.for_another) await refill();
    if (byId("said").textContent === words.offline) say("");
  } catch { say(words.offline); }
}

async function renew() {
  const seconds = Number(document.body.dataset.seconds);
  const next = ahead === null ? null : await ahead;
  for (const lease of [current, next]) {
    if (!lease || Date.now() - lease.taken < seconds * 500) continue;
    lease.taken = Date.now();
    ask("POST", place(lease, "renew"), {lease: lease.lease}).catch((error) => {
      if (error.status !== 409) return; // the service is away; the lease may outlive that
      if (lease !== current) fetchAhead();
      else if (!document.querySelector("dialog[open]")) { complain(words.lost); refill(); }
    });
  }
}

async function fillFilters() {
  const {reasons} = await ask("GET", "/api/groups");
  for (const each of reasons) byId("reasons").append(make("option", {value: each.reason}, `${each.reason} (${each.count})`));
  const form = byId("filters");
  for (const [name, value] of Object.entries(filters)) if (form.elements[name]) form.elements[name].value = value;
  form.addEventListener("change", () => form.requestSubmit());
}

const acts = {right: () => answer("right"), wrong: () => answer("wrong"), correct, skip, undo, note: () => byId("note-dialog").showModal(), history, help, bulk};
const keys = {1: "right", 2: "wrong", 3: "correct", s: "skip", u: "undo", n: "note", h: "history", b: "bulk", "?": "help"};

document.addEventListener("keydown", (event) => {
  if (event.repeat) return;
  if (event.ctrlKey && event.key === "Enter" && byId("correct-dialog").open) { byId("correct-form").requestSubmit(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  const act = keys[event.key.toLowerCase()];
  if (act === undefined || (act === "bulk" && !byId("bulk"))) return;
  event.preventDefault();
  acts[act]();
});
byId("actions").addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) acts[button.dataset.act]();
});
byId("correct-form").addEventListener("submit", saveCorrection);
byId("correct-cancel").addEventListener("click", () => byId("correct-dialog").close());
byId("note").addEventListener("input", (event) => { note = event.target.value; });
if (byId("bulk")) byId("bulk").addEventListener("click", bulk);
if (byId("logout")) byId("logout").addEventListener("click", async () => { await ask("POST", "/api/logout", {}); location.assign("/login"); });
byId("language").href = `?${new URLSearchParams({...filters, lang: words.other_language})}`;
addEventListener("pagehide", async () => {
  letGo(current);
  if (ahead !== null) letGo(await ahead);
});

fillFilters().catch(() => undefined);
refill();
counts();
setInterval(counts, COUNTS_EVERY_MS);
setInterval(renew, RETRY_MS);
