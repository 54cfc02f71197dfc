"use strict";
// Draws a training report into #report from the figures in #figures, or from drawReport(element, figures, words).

const REPORT_WORDS = {
  loss: "Training loss", reliability: "Reliability on records it has not learned", trade: "What a threshold holds and what it lets pass",
  step: "step", said: "P(right) as said", was: "share that was right", held: "share of the stream held", passed: "wrong among the passing",
  threshold: "threshold", certified: "certified threshold", champion: "champion then", model: "this version", none: "no certificate",
  try: "Try another threshold", counts: "Records", auroc: "AUROC", recall: "Wrong records held", findings: "What the check found",
  suspects: "Doubtful verdicts", decision: "Decision", promoted: "may take over", refused: "stays challenger", difference: "difference, each bound at 95 %",
  kind: "Kind of error", wrongs: "wrong in the hold-out", heldnow: "held by this version", heldthen: "held by the champion then", estimate: "Wrong among the passing, estimated", audits: "audit draws", heldout: "held-out and drawn records",
};

function drawReport(root, made, words = REPORT_WORDS) {
  // reports of earlier versions lack some of these, and are shown for ever
  const report = {
    test_weight: made.p_test.map(() => 1), flat_weight: made.p_flat.map(() => 1), p_stream_before: null, p_flat_before: null, kinds: [], decision: null,
    ...made,
  };
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
      legend: () => figure.append(html("p", "", Object.assign(html("span", `— ${words.model} `), {className: "is-new"}), Object.assign(html("span", `— ${words.champion}`), {className: "is-before"}))),
    };
  }

  function losses() {
    const points = report.losses;
    if (points.length < 2) return [];
    const made = plot(words.loss, words.step, "", [0, points[points.length - 1][0]], [0, Math.max(...points.map((point) => point[1]))]);
    made.line(points, "new");
    return [made.figure];
  }

  // ten bins of equal weight: a record that stands for ten of the stream counts as ten
  function bins(p_said) {
    const order = p_said.map((p, place) => [p, report.is_right[place] ? 1 : 0, report.test_weight[place]]).sort((a, b) => a[0] - b[0]);
    const most = order.reduce((sum, each) => sum + each[2], 0) / 10;
    const points = [];
    let said = 0, right = 0, weight = 0;
    order.forEach(([p, is_right, w], place) => {
      said += w * p; right += w * is_right; weight += w;
      if (weight >= most - 1e-9 || place === order.length - 1) { points.push([said / weight, right / weight]); said = right = weight = 0; }
    });
    return points;
  }

  function reliability() {
    if (!report.p_test.length) return [];
    const made = plot(words.reliability, words.said, words.was, [0, 1], [0, 1]);
    made.line([[0, 0], [1, 1]], "old");
    if (report.p_before) { made.line(bins(report.p_before), "before"); made.legend(); }
    const points = bins(report.p_test);
    made.line(points, "new");
    for (const [a, b] of points) made.dot(a, b, 3);
    made.note(`${report.p_test.length} ${words.heldout}`);
    return [made.figure];
  }

  const heldAt = (t, p_stream = report.p_stream) => p_stream.filter((p) => p < t).length / Math.max(1, p_stream.length);
  const hasDraws = report.p_flat.length > 0;
  const drawn = hasDraws
    ? {p: report.p_flat, before: report.p_flat_before, wrong: report.flat_is_wrong, weight: report.flat_weight}
    : {p: report.p_test, before: report.p_before, wrong: report.is_right.map((right) => !right), weight: report.test_weight};
  // [wrong, passes, weighted share wrong among what passes]
  function passedAt(t, p_drawn = drawn.p) {
    let passes = 0, wrong = 0, weight = 0, wrongWeight = 0;
    p_drawn.forEach((p, place) => {
      if (p < t) return;
      passes += 1; weight += drawn.weight[place];
      if (drawn.wrong[place]) { wrong += 1; wrongWeight += drawn.weight[place]; }
    });
    return [wrong, passes, weight ? wrongWeight / weight : 0];
  }
  const tradeOf = (p_stream, p_drawn) => [...new Set([0, ...p_stream])].sort((a, b) => a - b).map((t) => [heldAt(t, p_stream), passedAt(t, p_drawn)[2]]);

  function trade() {
    if (!report.p_stream.length || !drawn.p.length) return [];
    const most = Math.max(0.2, heldAt(report.threshold) * 2);
    const within = (points) => points.filter((point) => point[0] <= most);
    const points = within(tradeOf(report.p_stream, drawn.p));
    const before = report.p_stream_before && drawn.before ? within(tradeOf(report.p_stream_before, drawn.before)) : [];
    const made = plot(words.trade, words.held, words.passed, [0, most], [0, Math.max(0.01, ...[...points, ...before].map((point) => point[1]))]);
    if (before.length) { made.line(before, "before"); made.legend(); }
    made.line(points, "new");
    if (report.certificate) made.upright(heldAt(report.certificate.threshold), "mark");
    const move = made.upright(heldAt(report.threshold), "here");
    const slider = html("input");
    Object.assign(slider, {type: "range", min: 0, max: 1, step: 0.001, value: report.threshold});
    slider.setAttribute("aria-label", words.try);
    const output = html("output");
    const show = () => {
      const t = Number(slider.value), [wrong, passes, share] = passedAt(t);
      output.textContent = `${words.threshold} ${t.toFixed(3)}: ${words.held} ${percent(heldAt(t))}, ${words.passed} ${percent(share)} (${wrong} / ${passes} ${hasDraws ? words.audits : words.heldout})`;
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
      row("", words.model, words.champion, words.difference);
      row(words.auroc, c.auroc.toFixed(4), c.auroc_champion.toFixed(4), `${c.auroc_low.toFixed(4)} … ${c.auroc_high.toFixed(4)}`);
      row(words.recall, percent(c.recall), percent(c.recall_champion), `${percent(c.recall_low)} … ${percent(c.recall_high)}`);
    }
    const line = (name, text) => { row(name, text); rows[rows.length - 1].lastChild.colSpan = 3; };
    if (report.wrong_passed) line(words.estimate, `${percent(report.wrong_passed[0])} (95 %: ${percent(report.wrong_passed[1])} … ${percent(report.wrong_passed[2])})`);
    if (report.decision) line(words.decision, `${report.decision.promoted ? words.promoted : words.refused}: ${report.decision.why}`);
    line(words.counts, Object.entries(report.counts).map(([name, count]) => `${name} ${count}`).join(", "));
    if (report.findings.length) line(words.findings, report.findings.join("; "));
    if (report.suspects?.length) line(words.suspects, String(report.suspects.length));
    const made = html("table", "", html("tbody", "", ...rows));
    made.className = "figures";
    return made;
  }

  function kinds() {
    if (!report.kinds.length) return [];
    const head = html("tr", "", ...[words.kind, words.wrongs, words.heldnow, words.heldthen].map((name) => Object.assign(html("th", name), {scope: "col"})));
    const rows = report.kinds.map(([kind, count, now, then]) => html("tr", "", Object.assign(html("th", kind), {scope: "row"}),
      html("td", String(count)), html("td", `${now} (${percent(now / count)})`), html("td", then === null ? "" : `${then} (${percent(then / count)})`)));
    const made = html("table", "", html("thead", "", head), html("tbody", "", ...rows));
    made.className = "figures";
    return [made];
  }

  const plots = html("div", "", ...losses(), ...reliability(), ...trade());
  plots.className = "plots";
  root.replaceChildren(table(), plots, ...kinds());
}

if (document.getElementById("figures")) drawReport(document.getElementById("report"), JSON.parse(document.getElementById("figures").textContent));
