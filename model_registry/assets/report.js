"use strict";
// Draws a training report into #report from the figures in #figures, or from drawReport(element, figures, words).

const REPORT_WORDS = {
  loss: "Training loss", reliability: "Reliability on held-out records", trade: "What a threshold holds and what it lets pass",
  step: "step", said: "P(right) as said", was: "share that was right", held: "share of the stream held", passed: "wrong among the passing",
  threshold: "threshold", certified: "certified threshold", champion: "champion then", model: "this version", none: "no certificate",
  try: "Try another threshold", counts: "Records", auroc: "AUROC", recall: "Wrong records held", findings: "What the check found",
  suspects: "Doubtful verdicts", estimate: "Wrong among the passing, estimated", audits: "audit draws", heldout: "held-out records",
};

function drawReport(root, report, words = REPORT_WORDS) {
  const NS = "http://www.w3.org/2000/svg";
  const W = 360, H = 220, L = 40, R = 10, T = 10, B = 30;

  function svg(tag, attributes, text) {
    const made = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function html(tag, text, ...children) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    made.append(...children);
    return made;
  }
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;

  function plot(title, xName, yName, xs, ys) {
    const [x0, x1] = xs, [y0, y1] = ys;
    const x = (value) => L + (W - L - R) * (value - x0) / Math.max(1e-9, x1 - x0);
    const y = (value) => H - B - (H - B - T) * (value - y0) / Math.max(1e-9, y1 - y0);
    const canvas = svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title});
    canvas.append(svg("line", {class: "axis", x1: L, y1: H - B, x2: W - R, y2: H - B}), svg("line", {class: "axis", x1: L, y1: T, x2: L, y2: H - B}));
    const short = (value) => Math.abs(value) >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(2)));
    canvas.append(svg("text", {x: L, y: H - 16, "text-anchor": "middle"}, short(x0)), svg("text", {x: W - R, y: H - 16, "text-anchor": "end"}, short(x1)));
    canvas.append(svg("text", {x: L - 4, y: H - B, "text-anchor": "end"}, short(y0)), svg("text", {x: L - 4, y: T + 10, "text-anchor": "end"}, short(y1)));
    canvas.append(svg("text", {x: (L + W - R) / 2, y: H - 3, "text-anchor": "middle"}, xName));
    canvas.append(svg("text", {x: 10, y: (H - B) / 2, transform: `rotate(-90 10 ${(H - B) / 2})`, "text-anchor": "middle"}, yName));
    const figure = html("figure", "", html("figcaption", title), canvas);
    return {
      figure,
      line: (points, kind) => canvas.append(svg("polyline", {class: kind, points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ")})),
      dot: (a, b, size) => canvas.append(svg("circle", {class: "dot", cx: x(a), cy: y(b), r: size})),
      upright: (a, kind) => { const made = svg("line", {class: kind, x1: x(a), x2: x(a), y1: T, y2: H - B}); canvas.append(made); return (to) => { made.setAttribute("x1", x(to)); made.setAttribute("x2", x(to)); }; },
      note: (text) => figure.append(html("p", text)),
    };
  }

  function losses() {
    const points = report.losses;
    if (points.length < 2) return [];
    const made = plot(words.loss, words.step, "", [0, points[points.length - 1][0]], [0, Math.max(...points.map((point) => point[1]))]);
    made.line(points, "new");
    return [made.figure];
  }

  function reliability() {
    if (!report.p_test.length) return [];
    const made = plot(words.reliability, words.said, words.was, [0, 1], [0, 1]);
    made.line([[0, 0], [1, 1]], "old");
    const order = report.p_test.map((p, place) => [p, report.is_right[place]]).sort((a, b) => a[0] - b[0]);
    const size = Math.max(1, Math.ceil(order.length / 10));
    const points = [];
    for (let at = 0; at < order.length; at += size) {
      const bin = order.slice(at, at + size);
      points.push([bin.reduce((sum, each) => sum + each[0], 0) / bin.length, bin.filter((each) => each[1]).length / bin.length]);
    }
    made.line(points, "new");
    for (const [a, b] of points) made.dot(a, b, 3);
    made.note(`${report.p_test.length} ${words.heldout}`);
    return [made.figure];
  }

  const heldAt = (t) => report.p_stream.filter((p) => p < t).length / Math.max(1, report.p_stream.length);
  const drawn = report.p_flat.length ? [report.p_flat, report.flat_is_wrong] : [report.p_test, report.is_right.map((right) => !right)];
  function passedAt(t) {
    let passes = 0, wrong = 0;
    drawn[0].forEach((p, place) => { if (p >= t) { passes += 1; if (drawn[1][place]) wrong += 1; } });
    return [wrong, passes];
  }

  function trade() {
    if (!report.p_stream.length || !drawn[0].length) return [];
    const grid = [...new Set([0, ...report.p_stream])].sort((a, b) => a - b);
    const points = grid.map((t) => { const [wrong, passes] = passedAt(t); return [heldAt(t), passes ? wrong / passes : 0]; });
    const made = plot(words.trade, words.held, words.passed, [0, Math.max(0.2, heldAt(report.threshold) * 2)], [0, Math.max(0.01, ...points.map((point) => point[1]))]);
    const most = Math.max(0.2, heldAt(report.threshold) * 2);
    made.line(points.filter((point) => point[0] <= most), "new");
    if (report.certificate) made.upright(heldAt(report.certificate.threshold), "mark");
    const move = made.upright(heldAt(report.threshold), "here");
    const slider = html("input");
    Object.assign(slider, {type: "range", min: 0, max: 1, step: 0.001, value: report.threshold});
    slider.setAttribute("aria-label", words.try);
    const output = html("output");
    const show = () => {
      const t = Number(slider.value), [wrong, passes] = passedAt(t);
      output.textContent = `${words.threshold} ${t.toFixed(3)}: ${words.held} ${percent(heldAt(t))}, ${words.passed} ${wrong} / ${passes} ${report.p_flat.length ? words.audits : words.heldout}`;
      move(Math.min(most, heldAt(t)));
    };
    slider.addEventListener("input", show);
    show();
    made.figure.append(html("p", words.try), slider, output);
    if (report.certificate) made.note(`${words.certified} ${report.certificate.threshold.toFixed(3)}: ${report.certificate.wrong} / ${report.certificate.n}, α ${percent(report.certificate.alpha)}, 1-δ ${percent(1 - report.certificate.delta)}`);
    else made.note(`${words.none}: ${report.certificate_reason}`);
    return [made.figure];
  }

  function table() {
    const rows = [];
    const row = (name, ...cells) => rows.push(html("tr", "", name ? Object.assign(html("th", name), {scope: "row"}) : html("td"), ...cells.map((cell) => html("td", cell))));
    const c = report.comparison;
    if (c) {
      row("", words.model, words.champion, "95 %");
      row(words.auroc, c.auroc.toFixed(4), c.auroc_champion.toFixed(4), `${c.auroc_low.toFixed(4)} … ${c.auroc_high.toFixed(4)}`);
      row(words.recall, percent(c.recall), percent(c.recall_champion), `${percent(c.recall_low)} … ${percent(c.recall_high)}`);
    }
    if (report.wrong_passed) row(words.estimate, percent(report.wrong_passed[0]), "", `${percent(report.wrong_passed[1])} … ${percent(report.wrong_passed[2])}`);
    row(words.counts, Object.entries(report.counts).map(([name, count]) => `${name} ${count}`).join(", "));
    if (report.findings.length) row(words.findings, report.findings.join("; "));
    if (report.suspects.length) row(words.suspects, String(report.suspects.length));
    const made = html("table", "", html("tbody", "", ...rows));
    made.className = "figures";
    return made;
  }

  const plots = html("div", "", ...losses(), ...reliability(), ...trade());
  plots.className = "plots";
  root.replaceChildren(table(), plots);
}

if (document.getElementById("figures")) drawReport(document.getElementById("report"), JSON.parse(document.getElementById("figures").textContent));
