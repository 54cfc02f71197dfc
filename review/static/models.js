"use strict";
// Versions and aliases; the report of a version is drawn by the code that its own HTML file carries.

const mayMove = document.body.dataset.mayMove === "1";
const REFRESH_MS = 5000;
const COLUMNS = 6;
let shownLast = "";

function button(text, act) {
  const made = make("button", {type: "button"}, text);
  made.addEventListener("click", act);
  return made;
}

async function move(path, question) {
  if (!confirm(question)) return;
  try { await ask("POST", path); await refresh(); await refreshTrail(); } catch (error) { byId("wrong-said").textContent = error.message; }
}

async function showReport(version) {
  byId("report-title").textContent = `${words.report}: ${version.version}`;
  try {
    const {report} = await ask("GET", `/api/models/${version.number}/report`);
    if (report === null) byId("report").replaceChildren(make("p", {}, words.no_report));
    else drawReport(byId("report"), report, {...REPORT_WORDS, ...JSON.parse(words.report_words)});
  } catch (error) { byId("wrong-said").textContent = error.message; }
}

function certificateOf(threshold) {
  if (threshold.certified) return `${words.certified} (${threshold.wrong} / ${threshold.n})`;
  return `${words.not_certified}: ${threshold.reason}`;
}

const rollback = () => button(words.rollback, () => move("/api/rollback", `${words.rollback}?`));
const heading = (version) => make("th", {scope: "row"}, `${version.version} ${version.aliases.map((name) => words[name] || name).join(", ")}`);

function row(version) {
  if (version.unreadable) return unreadableRow(version);
  const acts = [button(words.report, () => showReport(version))];
  const isChampion = version.aliases.includes("champion");
  if (mayMove && !isChampion) acts.push(button(words.promote, () => move(`/api/models/${version.number}/promote`, `${words.promote} ${version.version}?`)));
  if (mayMove && isChampion) acts.push(rollback());
  const figures = Object.entries(version.metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`).join(", ");
  const threshold = `${version.threshold.p_chosen.toFixed(4)} · ${certificateOf(version.threshold)}`;
  const cells = [version.created, version.method, figures, threshold].map((text) => make("td", {}, text));
  return make("tr", {}, heading(version), ...cells, make("td", {}, ...acts));
}

function unreadableRow(version) {
  const acts = mayMove && version.aliases.includes("champion") ? [rollback()] : [];
  return make("tr", {}, heading(version), make("td", {colspan: COLUMNS - 2}, version.unreadable), make("td", {}, ...acts));
}

function shadowLine(each) {
  const share = (count) => `${count} (${each.records ? (100 * count / each.records).toFixed(2) : "0"} %)`;
  return make("li", {}, `${each.version} · ${words.shadow_records}: ${each.records} · ${words.to_clean}: ${share(each.to_clean)} · ${words.to_quarantine}: ${share(each.to_quarantine)} · ${words.gates}: ${each.gates}`);
}

async function refresh() {
  const {shadows, ...shown} = await ask("GET", "/api/models");
  byId("shadows").replaceChildren(...(shadows.length ? shadows.map(shadowLine) : [make("li", {}, words.no_shadow)]));
  const said = JSON.stringify(shown); // without the shadows, which change all the time: who is on a button stays there
  if (said === shownLast) return;
  shownLast = said;
  const unpin = mayMove ? [button(words.unpin, () => move("/api/unpin", `${words.unpin}?`))] : [];
  byId("pinned").replaceChildren(...(shown.pinned ? [words.pinned, " ", ...unpin] : []));
  const columns = [words.version, words.time, words.method, words.metrics, words.threshold, words.report];
  const head = make("tr", {}, ...columns.map((text) => make("th", {scope: "col"}, text)));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...shown.versions.map(row)));
  byId("versions").replaceChildren(shown.versions.length ? table : make("p", {}, words.no_versions));
  byId("moves").replaceChildren(...shown.moves.map((each) => make("li", {}, `${each.time} · ${words[each.alias] || each.alias} → ${each.version} · ${each.why}`)));
}

async function refreshTrail() {
  if (!mayMove) return;
  const {trail} = await ask("GET", "/api/trail");
  const when = (each) => new Date(1000 * each.time).toLocaleString(document.documentElement.lang);
  const line = (each) => [when(each), each.who, words[`did_${each.what.replace(" ", "_")}`] || each.what, each.detail].filter(Boolean).join(" · ");
  byId("trail").replaceChildren(...trail.map((each) => make("li", {}, line(each))));
}

refreshTrail().catch(() => undefined);
refresh().catch((error) => { byId("wrong-said").textContent = error.message; });
setInterval(() => { if (!document.hidden) refresh().catch(() => undefined); }, REFRESH_MS);
