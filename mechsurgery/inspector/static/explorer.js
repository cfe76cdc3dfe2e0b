// The explorer's front end: a layer plot, a table of units, one unit's page, and answers under multipliers.
//
// mount(root, data, transport) -> unmount
//   data       the document made in Python (Catalogue.document)
//   transport  {send(message), listen(callback) -> stop listening}, or null for a saved page without a model
//
// Everything that comes from prompts, tokens and models is put on screen as text nodes and attributes. The only HTML
// inserted as HTML is a unit's page, which Python has escaped.

const SVG = "http://www.w3.org/2000/svg";
const WAIT = 150; // milliseconds after the last movement of a slider before an answer is asked for
const PATIENCE = 6000; // milliseconds without a first word until that is said
const FULL = [-3, 5]; // any multiplier
const USUAL = [0, 3]; // what sliders of m span until a number outside it is typed
const STRENGTH = [0, 1.5]; // of a circuit whose units have multipliers of their own
const MOST_TOKENS = 512;
let mounted = 0;

// ---------------------------------------------------------------------------------------------- elements and text

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Characters that cannot be seen, or that turn the text after them around, are written by their code point.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const visible = (text) =>
  String(text).replace(UNSEEN, (c) => `‹U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);

const isolated = (text, attributes = {}) => el("bdi", attributes, visible(text));

const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en");

function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("-", "−").replace("e-", "e−");
  return digits.format(value).replace("-", "−");
}

const count = (n, one, many = `${one}s`) => `${whole.format(n)} ${n === 1 ? one : many}`;

// ---------------------------------------------------------------------------------------------- words that changed

// Words, spaces, and single characters of scripts that put no spaces between words.
const WORDS =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[^\s\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]+/gu;

function words(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(WORDS)) {
    found.push({ before: text.slice(end, match.index), word: match[0] });
    end = match.index + match[0].length;
  }
  return { found, rest: text.slice(end) };
}

// For two lists of words: which of each belong to a longest common subsequence.
function common(a, b) {
  const keptA = new Array(a.length).fill(false);
  const keptB = new Array(b.length).fill(false);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) keptA[start] = keptB[start++] = true;
  const rows = a.length - start;
  const columns = b.length - start;
  if (rows * columns > 4e6) return [keptA, keptB]; // thousands of words: everything after the first difference
  const length = Array.from({ length: rows + 1 }, () => new Uint16Array(columns + 1));
  for (let i = rows - 1; i >= 0; i--)
    for (let j = columns - 1; j >= 0; j--)
      length[i][j] =
        a[start + i] === b[start + j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  for (let i = 0, j = 0; i < rows && j < columns; ) {
    if (a[start + i] === b[start + j]) keptA[start + i++] = keptB[start + j++] = true;
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return [keptA, keptB];
}

// The text in `place`, its words that are not in `kept` marked; neighbours that are marked share one mark.
function showWords(place, { found, rest }, kept, kind) {
  const nodes = [];
  let mark = null;
  found.forEach(({ before, word }, i) => {
    if (kept[i]) {
      mark = null;
      nodes.push(visible(before + word));
    } else if (mark) {
      mark.append(visible(before + word));
    } else {
      mark = el("mark", { class: kind }, visible(word));
      nodes.push(visible(before), mark);
    }
  });
  place.replaceChildren(...nodes, visible(rest));
}

function showAnswers(places, texts) {
  const baseline = words(texts.baseline ?? "");
  const list = baseline.found.map((one) => one.word);
  let lost = list.map(() => true);
  for (const name of ["random", "changed"]) {
    if (texts[name] === undefined) continue;
    const other = words(texts[name]);
    const [inBaseline, inOther] = common(list, other.found.map((one) => one.word));
    showWords(places[name], other, inOther, "ms-new");
    if (name === "changed") lost = inBaseline;
  }
  showWords(places.baseline, baseline, lost, "ms-gone");
}

// ---------------------------------------------------------------------------------------------- what is known

class State {
  constructor(data, transport) {
    this.data = data;
    this.transport = transport;
    this.live = Boolean(transport) && data.live !== false;
    this.id = `ms${++mounted}`;
    this.units = new Map(data.units.map((unit) => [unit.name, unit]));
    this.members = data.units.filter((unit) => unit.in_circuit);
    this.score = data.scores[0]?.name ?? null;
    this.values = new Map(); // unit name -> m, where it is not 1
    this.selection = new Set();
    this.shown = null; // name of the unit whose page is open
    this.opened = new Map(Object.entries(data.pages ?? {})); // name -> page
    this.request = Math.floor(Math.random() * 1e9) * 1e4; // pages that share a connection do not take each other's answers
    this.asked = null; // newest ask: {request, started}
    this.random = null; // seed of the matched random circuit beside it
    this.views = []; // called after anything changed
    this.cleanups = [];
  }

  changed() {
    for (const view of this.views) view();
  }

  m(name) {
    return this.values.get(name) ?? 1;
  }

  set(name, m) {
    if (m === 1) this.values.delete(name);
    else this.values.set(name, m);
  }

  // The multiplier that each unit of the circuit has when the circuit's slider is at `value`.
  circuitAt(value) {
    const own = this.data.circuit?.m === null || this.data.circuit?.m === undefined;
    return this.members.map((unit) => [unit.name, own ? tidy(1 + value * ((unit.m ?? 1) - 1)) : value]);
  }

  // Where the circuit's slider stands, or null when its units were set one by one to something else.
  circuitValue() {
    const own = this.data.circuit?.m === null || this.data.circuit?.m === undefined;
    if (!own) return this.same(this.members.map((unit) => unit.name));
    const moving = this.members.filter((unit) => (unit.m ?? 1) !== 1);
    const ts = moving.map((unit) => (this.m(unit.name) - 1) / (unit.m - 1));
    const rest = this.members.every((unit) => (unit.m ?? 1) !== 1 || this.m(unit.name) === 1);
    return ts.length && rest && ts.every((t) => Math.abs(t - ts[0]) < 1e-6) ? tidy(ts[0], 3) : null;
  }

  same(names) {
    const first = this.m(names[0]);
    return names.length && names.every((name) => this.m(name) === first) ? first : null;
  }
}

// JupyterLab takes Enter's own effects (a form's submission, a field's change) away, so it is listened to itself.
function onEnter(field, then) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    then();
  });
}

const tidy = (value, digits = 6) => Number(value.toFixed(digits));

// ---------------------------------------------------------------------------------------------- asking

function connect(state, parts) {
  const receive = (message) => {
    if (message.type === "unit") {
      state.opened.set(message.unit, message.html);
      if (message.request === state.pageRequest) {
        state.shown = message.unit; // as Python spells it
        say(state, parts, "");
        state.changed();
      }
    } else if (message.type === "answer" && message.request === state.asked?.request) {
      showAnswers(parts.places, message.texts);
      clearTimeout(state.patience);
      if (!message.done) return say(state, parts, "answering…");
      const seconds = (performance.now() - state.asked.started) / 1000;
      const same = message.texts.baseline === message.texts.changed;
      const verdict = same ? "the same answer as the baseline" : "the answer changed";
      finish(state, parts, state.asked.changes ? `${verdict} · ${seconds.toFixed(1)} s` : "nothing is changed yet: move a slider");
    } else if (message.type === "error") {
      const ask = message.request === state.asked?.request;
      const open = message.request === state.pageRequest;
      if (!ask && !open && message.request !== null && message.request !== undefined) return;
      if (open) state.failed = state.shown;
      if (!open) finish(state, parts, "");
      say(state, parts, message.message, true);
      state.changed();
    }
  };
  const stop = state.transport?.listen(receive);
  state.cleanups.push(() => {
    clearTimeout(state.timer);
    clearTimeout(state.patience);
    if (typeof stop === "function") stop();
    if (state.live && state.asked) state.transport.send({ type: "stop" });
  });
}

function say(state, parts, message, wrong = false) {
  parts.status.replaceChildren(visible(message));
  parts.status.classList.toggle("ms-wrong", wrong);
}

function finish(state, parts, message) {
  clearTimeout(state.patience);
  state.asked = null;
  parts.stop.hidden = true;
  parts.answers.removeAttribute("aria-busy");
  say(state, parts, message);
}

function askSoon(state, parts) {
  clearTimeout(state.timer);
  state.timer = setTimeout(() => ask(state, parts), WAIT);
}

function ask(state, parts) {
  clearTimeout(state.timer);
  const prompt = parts.prompt.value;
  if (!prompt.trim()) return say(state, parts, "Type a prompt first, or take an example.", true);
  const wanted = Number(parts.tokens.value);
  const max_new_tokens = Math.min(MOST_TOKENS, Math.max(1, Math.round(wanted) || 48));
  parts.tokens.value = max_new_tokens;
  const multipliers = Object.fromEntries(state.values);
  const changes = state.values.size > 0;
  state.asked = { request: ++state.request, started: performance.now(), changes };
  const random = changes ? state.random : null;
  parts.showRandom(random);
  parts.stop.hidden = false;
  parts.answers.hidden = false;
  parts.answers.setAttribute("aria-busy", "true");
  say(state, parts, "answering…");
  clearTimeout(state.patience);
  state.patience = setTimeout(() => say(state, parts, "still waiting: the model is busy with something else, or gone"), PATIENCE);
  state.transport.send({ type: "ask", request: state.asked.request, prompt, multipliers, random, max_new_tokens });
}

// Open a unit's page, known or not; Python says whether there is such a unit.
function open(state, parts, name) {
  state.shown = name;
  state.failed = null;
  if (!state.opened.has(name)) {
    if (state.live) {
      state.pageRequest = ++state.request;
      state.transport.send({ type: "unit", request: state.pageRequest, unit: name });
    } else {
      say(state, parts, `This saved page holds nothing on ${name}: it has ${count(state.opened.size, "unit")}.`, true);
    }
  }
  state.changed();
}

function toggle(state, name, on = !state.selection.has(name)) {
  if (on) state.selection.add(name);
  else state.selection.delete(name);
  state.changed();
}

// ---------------------------------------------------------------------------------------------- live: prompt, sliders

function slider(state, parts, { label, title, span, usual, get, set }) {
  const range = el("input", { type: "range", step: 0.01, "aria-label": label(), list: `${state.id}-one`, input: moved });
  const exact = el("input", { type: "number", step: 0.1, class: "ms-number", "aria-label": `${label()}, as a number` });
  const text = el("span", { class: "ms-label" });
  let typing = false;
  let wide = false; // until a number outside the usual span is typed
  exact.addEventListener("input", () => (typing = true));
  exact.addEventListener("change", typed);
  onEnter(exact, typed);

  exact.min = span[0];
  exact.max = span[1];

  function typed() {
    if (!typing) return;
    typing = false;
    const value = Number(exact.value);
    if (exact.value === "" || !Number.isFinite(value)) return refresh();
    write(Math.min(span[1], Math.max(span[0], value)));
  }
  function moved() {
    typing = false;
    write(tidy(Number(range.value)));
  }
  function write(value) {
    set(value);
    state.changed();
    askSoon(state, parts);
  }
  function refresh() {
    const value = get();
    const off = value === undefined;
    wide ||= typeof value === "number" && (value < usual[0] || value > usual[1]);
    [range.min, range.max] = wide ? span : usual;
    range.disabled = exact.disabled = off;
    if (off) range.value = 1;
    if (typeof value === "number") {
      range.value = value;
      if (!typing) exact.value = value;
    } else if (!typing) {
      exact.value = "";
    }
    exact.placeholder = off ? "" : "mixed";
    text.replaceChildren(isolated(label()));
    range.setAttribute("aria-label", label());
    exact.setAttribute("aria-label", `${label()}, as a number`);
    range.setAttribute("aria-valuetext", value === null ? "mixed" : String(value ?? ""));
  }
  state.views.push(refresh);
  return el("div", { class: "ms-slider", title }, text, range, exact);
}

function sliders(state, parts) {
  const { circuit } = state.data;
  const rows = [];
  if (circuit && state.members.length) {
    const own = circuit.m === null || circuit.m === undefined;
    const some = state.members.length < circuit.size ? `${state.members.length} of ` : "";
    const what = `circuit, ${some}${count(circuit.size, "unit")}`;
    rows.push(
      slider(state, parts, {
        label: () => (own ? `${what}: strength t` : `${what}: m`),
        title: own
          ? "Each unit of the circuit is multiplied by 1 + t (m − 1), m being its own: 0 changes nothing, 1 is the circuit as found"
          : "Every unit of the circuit is multiplied by m: 1 changes nothing, 0 ablates",
        span: own ? STRENGTH : FULL,
        usual: own ? STRENGTH : USUAL,
        get: () => state.circuitValue(),
        set: (value) => state.circuitAt(value).forEach(([name, m]) => state.set(name, m)),
      }),
    );
  }
  rows.push(
    slider(state, parts, {
      label: () => (state.selection.size ? `selection, ${count(state.selection.size, "unit")}: m` : "selection: none yet"),
      title: "Every selected unit is multiplied by m; select with the boxes in the table, or with Ctrl or Shift and a click",
      span: FULL,
      usual: USUAL,
      get: () => (state.selection.size ? state.same([...state.selection]) : undefined),
      set: (m) => state.selection.forEach((name) => state.set(name, m)),
    }),
    slider(state, parts, {
      label: () => (state.shown ? `unit ${state.shown}: m` : "unit: none open"),
      title: "The unit whose page is open is multiplied by m",
      span: FULL,
      usual: USUAL,
      get: () => (known(state, state.shown) ? state.m(state.shown) : undefined),
      set: (m) => state.set(state.shown, m),
    }),
  );
  return el("div", { class: "ms-sliders" }, ...rows, el("datalist", { id: `${state.id}-one` }, el("option", { value: 1 })));
}

const known = (state, name) => name !== null && (state.units.has(name) || state.opened.has(name));

function prompter(state, parts) {
  const { prompts = [] } = state.data;
  parts.prompt = el("textarea", {
    rows: 2,
    dir: "auto",
    spellcheck: "false",
    "aria-label": "prompt",
    placeholder: "Type any prompt; Enter answers",
    keydown: (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      ask(state, parts);
    },
  });
  parts.prompt.value = prompts[0] ?? "";
  const examples = el(
    "select",
    {
      "aria-label": "example prompts",
      change: () => {
        if (examples.value === "") return;
        parts.prompt.value = prompts[Number(examples.value)];
        examples.value = "";
        ask(state, parts);
      },
    },
    el("option", { value: "" }, "Examples…"),
    ...prompts.map((prompt, i) => el("option", { value: i, dir: "auto" }, visible(prompt))),
  );
  parts.tokens = el("input", { type: "number", min: 1, max: MOST_TOKENS, value: 48, class: "ms-number" });
  parts.stop = el("button", { type: "button", hidden: true, click: () => stop(state, parts) }, "Stop");
  return el(
    "div",
    { class: "ms-prompter" },
    parts.prompt,
    el(
      "div",
      { class: "ms-buttons" },
      el("button", { type: "button", class: "ms-main", click: () => ask(state, parts) }, "Answer"),
      parts.stop,
      prompts.length ? examples : null,
      el("label", {}, parts.tokens, " new tokens"),
    ),
  );
}

function stop(state, parts) {
  state.transport.send({ type: "stop" });
  finish(state, parts, "stopped");
}

function controls(state, parts) {
  const again = () => {
    state.changed();
    askSoon(state, parts);
  };
  const button = (label, title, click) => el("button", { type: "button", title, click }, label);
  const none = button("All to m = 1", "Every unit as in the model", () => {
    state.values.clear();
    again();
  });
  const found = button("Circuit as found", "The circuit's own multipliers, everything else at m = 1", () => {
    state.values.clear();
    state.circuitAt(state.data.circuit.m ?? 1).forEach(([name, m]) => state.set(name, m));
    again();
  });
  const random = button("Beside a random circuit", "As many units of the same layers, drawn anew at each click, with the same multipliers", () => {
    state.random = (state.random ?? -1) + 1;
    ask(state, parts);
  });
  const summary = el("span", { class: "ms-muted" });
  state.views.push(() => {
    const names = [...state.values.keys()];
    none.disabled = random.disabled = names.length === 0;
    summary.replaceChildren(names.length ? `${count(names.length, "unit")} changed` : "no unit changed");
    summary.title = visible(names.slice(0, 30).map((name) => `${name} × ${state.m(name)}`).join("\n"));
  });
  const member = state.data.circuit && state.members.length ? found : null;
  return el("div", { class: "ms-buttons" }, member, none, random, summary, parts.status);
}

function answers(state, parts) {
  parts.places = {};
  const column = (name, ...heading) => {
    parts.places[name] = el("p", { class: "ms-text", dir: "auto" });
    return el("section", { class: `ms-answer ms-${name}` }, el("h4", {}, ...heading), parts.places[name]);
  };
  const seed = el("span", {});
  const close = el("button", { type: "button", class: "ms-quiet", "aria-label": "without the random circuit" }, "×");
  const random = column("random", seed, close);
  close.addEventListener("click", () => {
    state.random = null;
    random.hidden = true;
  });
  parts.showRandom = (value) => {
    random.hidden = value === null;
    parts.places.random.replaceChildren();
    seed.textContent = `random circuit, seed ${value}`;
  };
  parts.answers = el("div", { class: "ms-answers", hidden: true }, column("baseline", "baseline"), column("changed", "changed"), random);
  parts.showRandom(null);
  return parts.answers;
}

// ---------------------------------------------------------------------------------------------- the layer plot

// Scores have long tails: where a few are far beyond the middle 98 %, lengths are square roots, so that both are seen.
const signedRoot = (value) => Math.sign(value) * Math.sqrt(Math.abs(value));
const tailed = (score) => {
  const size = (places) => Math.max(...score.layers.flatMap(({ quantiles: q }) => places.map((i) => Math.abs(q[i]))));
  return score.layers.length > 0 && size([0, 6]) > 8 * size([1, 5]);
};

// Round numbers that are at least `gap` pixels apart, from zero outwards.
function rootTicks(low, high, y, gap = 20) {
  const sizes = [];
  const most = Math.max(Math.abs(low), Math.abs(high));
  for (let power = Math.floor(Math.log10(most || 1)) + 1; power > -12; power--)
    for (const digit of [5, 2, 1]) sizes.push(digit * 10 ** power);
  const kept = [0];
  for (const size of sizes)
    for (const value of [size, -size])
      if (value >= low && value <= high && kept.every((one) => Math.abs(y(one) - y(value)) >= gap)) kept.push(tidy(value, 12));
  return kept;
}

function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((one) => one >= rough);
  const all = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) all.push(tidy(value, 12));
  return all;
}

// Horizontal offsets that keep points of one layer apart: each goes to the free place nearest the middle.
function offsets(ys, radius, room) {
  const placed = [];
  return ys.map((y) => {
    let best = 0;
    for (let k = 0; k <= 2 * Math.floor(room / radius); k++) {
      const x = (k % 2 ? 1 : -1) * Math.ceil(k / 2) * radius * 0.9;
      best = Math.abs(x) <= room ? x : best;
      if (placed.every((p) => Math.hypot(p.x - x, p.y - y) >= 2 * radius)) break;
    }
    placed.push({ x: best, y });
    return best;
  });
}

function plot(state, parts) {
  const figure = el("div", { class: "ms-plot" });
  const roots = el("input", { type: "checkbox", change: () => draw() });
  const tip = el("div", { class: "ms-tip", hidden: true });
  const choose = el(
    "select",
    { "aria-label": "score shown in the plot", change: () => show(choose.value) },
    ...state.data.scores.map((score) => el("option", { value: score.name }, visible(score.label ?? score.name))),
  );
  const points = new Map();
  let current = null; // name of the point that Tab reaches

  function show(name) {
    state.score = name;
    roots.checked = state.data.scores.some((one) => one.name === name && tailed(one));
    draw();
  }
  function draw() {
    const score = state.data.scores.find((one) => one.name === state.score);
    const drawing = score ? layers(state, score, Math.max(280, figure.clientWidth || 600), roots.checked) : null;
    points.clear();
    tip.hidden = true;
    if (!drawing) return figure.replaceChildren(el("p", { class: "ms-muted" }, "No scores to plot."));
    for (const { unit, node } of drawing.points) {
      points.set(unit.name, node);
      node.addEventListener("click", (event) => pick(event, unit.name));
      node.addEventListener("pointerenter", () => hint(unit, score, node));
      node.addEventListener("pointerleave", () => (tip.hidden = true));
      node.addEventListener("focus", () => ((current = unit.name), hint(unit, score, node)));
      node.addEventListener("blur", () => (tip.hidden = true));
      node.addEventListener("keydown", (event) => walk(event, unit.name));
    }
    figure.replaceChildren(drawing.node);
    refresh();
  }
  function pick(event, name) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) toggle(state, name);
    else open(state, parts, name);
  }
  function walk(event, name) {
    const names = [...points.keys()];
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (step) points.get(names[(names.indexOf(name) + step + names.length) % names.length]).focus();
    else if (event.key === "Enter") open(state, parts, name);
    else if (event.key === " ") toggle(state, name);
    else return;
    event.preventDefault();
    refresh();
  }
  function hint(unit, score, node) {
    const where = node.getBoundingClientRect();
    const box = figure.getBoundingClientRect();
    tip.replaceChildren(el("b", {}, isolated(unit.name)), ` ${describe(state, unit, score)}`);
    tip.hidden = false;
    const left = where.left - box.left + figure.offsetLeft + 12;
    tip.style.left = `${Math.min(left, figure.offsetLeft + box.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(0, where.top - box.top + figure.offsetTop - tip.offsetHeight - 4)}px`;
  }
  function refresh() {
    const reach = points.has(current) ? current : points.has(state.shown) ? state.shown : points.keys().next().value;
    for (const [name, node] of points) {
      node.classList.toggle("ms-shown", name === state.shown);
      node.classList.toggle("ms-selected", state.selection.has(name));
      node.setAttribute("tabindex", name === reach ? 0 : -1);
      node.setAttribute("aria-pressed", state.selection.has(name));
    }
  }
  state.views.push(refresh);
  if (typeof ResizeObserver === "function") {
    let width = 0;
    const watch = new ResizeObserver(() => {
      if (figure.clientWidth && figure.clientWidth !== width) draw((width = figure.clientWidth));
    });
    watch.observe(figure);
    state.cleanups.push(() => watch.disconnect());
  }
  parts.draw = () => show(state.score);
  const title = "Lengths are square roots, so that long tails and small scores are both seen; the numbers are the scores";
  const scale = el("label", { class: "ms-muted", title }, roots, " root scale");
  const caption = el("span", { class: "ms-muted" }, "bars: middle 50 % and 98 % of all units");
  const bar = state.data.scores.length ? [choose, legend(state), scale, caption] : [];
  return el("section", { class: "ms-figure", "aria-label": "scores by layer" }, el("div", { class: "ms-bar" }, ...bar), figure, tip);
}

function describe(state, unit, score) {
  const rank = unit.ranks?.[score.name];
  const facts = [unit.side, unit.in_circuit ? "in the circuit" : null].filter(Boolean).map(visible);
  const place = rank === undefined || rank === null ? "" : `, rank ${whole.format(rank)} of ${whole.format(score.of)}`;
  return `${facts.map((fact) => `${fact} · `).join("")}${visible(score.label ?? score.name)} ${number(unit.scores[score.name])}${place}`;
}

const isNegative = (state, unit) => unit.side !== null && unit.side !== undefined && unit.side === state.data.sides?.negative;
// Latents and channels have no side where only neurons were scored on both.
const isSideless = (state, unit) => Boolean(state.data.sides?.positive) && !isNegative(state, unit) && unit.side !== state.data.sides.positive;
const colour = (state, unit) => (isSideless(state, unit) ? "ms-sideless" : isNegative(state, unit) ? "ms-negative" : "ms-positive");
const mark = (state, unit) => `ms-point ${colour(state, unit)} ${unit.in_circuit ? "ms-in" : ""}`;
const shape = (state, unit, x, y, r) =>
  isNegative(state, unit)
    ? svg("path", { d: `M${x} ${y - r * 1.2}L${x + r * 1.2} ${y}L${x} ${y + r * 1.2}L${x - r * 1.2} ${y}Z` })
    : svg("circle", { cx: x, cy: y, r });

function legend(state) {
  const { sides, circuit } = state.data;
  const entry = (unit, label) =>
    el("span", { class: "ms-key" }, svg("svg", { width: 12, height: 12, "aria-hidden": "true" }, svg("g", { class: mark(state, unit) }, shape(state, unit, 6, 6, unit.in_circuit ? 4 : 2.4))), isolated(label));
  const member = Boolean(circuit);
  const entries = sides?.positive ? [sides.positive, sides.negative].map((side) => entry({ side, in_circuit: member }, side)) : [];
  if (state.members.some((unit) => isSideless(state, unit))) entries.push(entry({ side: null, in_circuit: true }, "of no side"));
  if (member && state.members.length < state.data.units.length) entries.push(entry({ side: null, in_circuit: false }, "not in the circuit"));
  return el("span", { class: "ms-legend" }, ...entries);
}

// The drawing of one score: a bar per layer, the units of the table as points.
function layers(state, score, width, roots) {
  const height = 210;
  const box = { left: 46, right: width - 8, top: 8, bottom: height - 40 };
  const units = state.data.units.filter((unit) => Number.isFinite(unit.scores?.[score.name]) && Number.isFinite(unit.layer));
  const numbers = score.layers.map((one) => one.layer).concat(units.map((unit) => unit.layer));
  const first = Math.min(...numbers);
  const last = Math.max(...numbers);
  const values = score.layers.flatMap((one) => one.quantiles).concat(units.map((unit) => unit.scores[score.name]));
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const slot = (box.right - box.left) / (last - first + 1);
  const x = (layer) => box.left + (layer - first + 0.5) * slot;
  const length = roots ? signedRoot : (value) => value;
  const y = (value) => box.bottom - ((length(value) - length(low)) / (length(high) - length(low) || 1)) * (box.bottom - box.top);
  const bar = Math.min(slot * 0.8, 64);
  const node = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${score.label ?? score.name} by layer` });
  for (const value of roots ? rootTicks(low, high, y) : ticks(low, high)) {
    node.append(svg("line", { class: value === 0 ? "ms-zero" : "ms-grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    node.append(svg("text", { class: "ms-tick", x: box.left - 6, y: y(value) + 3.5, "text-anchor": "end" }, number(value)));
  }
  const every = Math.ceil((last - first + 1) / Math.max(1, Math.floor((box.right - box.left) / 28)));
  for (let layer = first; layer <= last; layer++)
    if ((layer - first) % every === 0)
      node.append(svg("text", { class: "ms-tick", x: x(layer), y: box.bottom + 20, "text-anchor": "middle" }, String(layer)));
  node.append(svg("text", { class: "ms-tick", x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" }, "layer"));
  for (const { layer, quantiles: q } of score.layers) {
    const band = (from, to, className) =>
      svg("rect", { class: className, x: x(layer) - bar / 2, width: bar, y: y(to), height: Math.max(1, y(from) - y(to)) });
    node.append(
      svg("line", { class: "ms-whole", x1: x(layer), x2: x(layer), y1: y(q[0]), y2: y(q[6]) }),
      band(q[1], q[5], "ms-band"),
      band(q[2], q[4], "ms-middle"),
      svg("line", { class: "ms-median", x1: x(layer) - bar / 2, x2: x(layer) + bar / 2, y1: y(q[3]), y2: y(q[3]) }),
    );
  }
  const points = [];
  for (let layer = first; layer <= last; layer++) {
    // The circuit's units take their places first, and are drawn last.
    const here = units.filter((unit) => unit.layer === layer).sort((a, b) => Boolean(b.in_circuit) - Boolean(a.in_circuit) || a.scores[score.name] - b.scores[score.name]);
    const ys = here.map((unit) => y(unit.scores[score.name]));
    const shifts = offsets(ys, 3.4, slot * 0.44);
    here.forEach((unit, i) => {
      const label = `${unit.name}, ${describe(state, unit, score)}`;
      const group = svg("g", { class: mark(state, unit), role: "button", "aria-label": visible(label), "data-name": unit.name });
      group.append(shape(state, unit, x(layer) + shifts[i], ys[i], unit.in_circuit ? 4 : 2.4));
      points.push({ unit, node: group });
    });
  }
  node.append(...points.filter(({ unit }) => !unit.in_circuit).map((one) => one.node));
  node.append(...points.filter(({ unit }) => unit.in_circuit).map((one) => one.node));
  return { node, points };
}

// ---------------------------------------------------------------------------------------------- the table

function columns(state) {
  const { units, scores, effect, circuit } = state.data;
  const some = (key) => units.some((unit) => unit[key] !== null && unit[key] !== undefined);
  const alone = `change of ${effect?.name ?? "the effect"} when this unit alone is multiplied`;
  const from = Number.isFinite(effect?.baseline) ? `, from ${number(effect.baseline)}` : "";
  const all = [
    { key: "name", label: "unit", title: "sorted by layer and index", of: (unit) => unit.layer * 1e9 + (unit.index ?? 0) },
    { key: "m", label: "m", title: "the multiplier it has now", numeric: true, of: (unit) => state.m(unit.name) },
    { key: "layer", label: "layer", numeric: true, of: (unit) => unit.layer },
  ].filter((col) => state.live || col.key !== "m");
  if (some("side")) all.push({ key: "side", label: "side", of: (unit) => unit.side, show: (unit) => unit.side ?? "–" });
  if (circuit) all.push({ key: "circuit", label: "circuit", title: "units of the circuit", of: (unit) => (unit.in_circuit ? 1 : 0), show: (unit) => (unit.in_circuit ? "●" : "") , falling: true });
  for (const { name, label, of } of scores)
    all.push({
      key: `score:${name}`,
      label: name,
      title: `${label ?? name}; small: the rank of its size among ${whole.format(of)} units`,
      numeric: true,
      falling: true,
      of: (unit) => unit.scores?.[name],
      rank: (unit) => unit.ranks?.[name],
    });
  if (some("ablated")) all.push({ key: "ablated", label: "alone × 0", title: `${alone} by 0${from}`, numeric: true, of: (unit) => unit.ablated });
  if (some("doubled")) all.push({ key: "doubled", label: "alone × 2", title: `${alone} by 2${from}`, numeric: true, of: (unit) => unit.doubled });
  return all;
}

// Names may break after an underscore, so that the columns stay narrow.
const breakable = (label) => visible(label).split(/(?<=_)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));

function table(state, parts) {
  const cols = columns(state);
  const sort = { key: null, falling: false };
  const rows = state.data.units.map((unit, at) => row(state, parts, cols, unit, at, range));
  const body = el("tbody", { keydown: step }, ...rows.map((one) => one.node));
  const all = el("input", { type: "checkbox", "aria-label": "select all units shown", change: every });
  const found = el("span", { class: "ms-muted" });
  const search = el("input", { type: "search", placeholder: "Search: L5, benign, circuit…", "aria-label": "search units", input: filter });
  onEnter(search, () => {
    const first = rows.find((one) => !one.node.hidden);
    if (first) open(state, parts, first.unit.name);
  });
  let last = null; // row clicked last, where a range selected with Shift begins

  const heads = cols.map((col) => {
    const name = el("button", { type: "button", title: col.title, click: () => order(col) }, el("bdi", {}, ...breakable(col.label)));
    return el("th", { scope: "col", class: col.numeric ? "ms-num" : null, "aria-sort": "none" }, name);
  });
  function order(col) {
    const again = sort.key === col.key;
    sort.falling = again ? !sort.falling : Boolean(col.falling);
    sort.key = col.key;
    const missing = (value) => value === null || value === undefined || Number.isNaN(value);
    const value = new Map(rows.map((one) => [one, col.of(one.unit)]));
    rows.sort((one, two) => {
      const [a, b] = [value.get(one), value.get(two)];
      if (missing(a) || missing(b)) return missing(a) - missing(b) || one.at - two.at;
      return (a < b ? -1 : a > b ? 1 : 0) * (sort.falling ? -1 : 1) || one.at - two.at;
    });
    body.append(...rows.map((one) => one.node));
    heads.forEach((head, i) => head.setAttribute("aria-sort", cols[i].key !== sort.key ? "none" : sort.falling ? "descending" : "ascending"));
  }
  function filter() {
    const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const one of rows) one.node.hidden = !asked.every((word) => one.haystack.includes(word));
    refresh();
  }
  function range(name, extend) {
    const visibleRows = rows.filter((one) => !one.node.hidden).map((one) => one.unit.name);
    const [from, to] = [visibleRows.indexOf(last ?? name), visibleRows.indexOf(name)];
    if (extend && from >= 0) for (const one of visibleRows.slice(Math.min(from, to), Math.max(from, to) + 1)) state.selection.add(one);
    else if (state.selection.has(name)) state.selection.delete(name);
    else state.selection.add(name);
    last = name;
    state.changed();
  }
  function every() {
    for (const one of rows) if (!one.node.hidden) all.checked ? state.selection.add(one.unit.name) : state.selection.delete(one.unit.name);
    state.changed();
  }
  function step(event) {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const here = rows.filter((one) => !one.node.hidden);
    const at = here.findIndex((one) => one.node.contains(event.target));
    if (!move || at < 0) return;
    event.preventDefault();
    here[Math.min(here.length - 1, Math.max(0, at + move))].name.focus();
  }
  function refresh() {
    const here = rows.filter((one) => !one.node.hidden);
    const reach = here.find((one) => one.node.contains(document.activeElement)) ?? here.find((one) => one.unit.name === state.shown) ?? here[0];
    for (const one of rows) one.refresh(one === reach);
    all.checked = here.length > 0 && here.every((one) => state.selection.has(one.unit.name));
    all.indeterminate = !all.checked && here.some((one) => state.selection.has(one.unit.name));
    found.textContent = here.length === rows.length ? count(rows.length, "unit") : `${here.length} of ${count(rows.length, "unit")}`;
  }
  state.views.push(refresh);
  const clear = el("button", { type: "button", click: () => (state.selection.clear(), state.changed()) }, "Clear selection");
  state.views.push(() => (clear.hidden = state.selection.size === 0));
  const grid = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "ms-pick" }, all), ...heads)),
    body,
  );
  return el(
    "section",
    { class: "ms-units", "aria-label": "units" },
    el("div", { class: "ms-bar" }, search, found, clear),
    el("div", { class: "ms-scroll", tabindex: -1 }, grid),
  );
}

function row(state, parts, cols, unit, at, range) {
  const pick = el("input", { type: "checkbox", "aria-label": `select ${visible(unit.name)}`, click: (event) => (event.stopPropagation(), range(unit.name, event.shiftKey)) });
  const name = el("button", { type: "button", class: "ms-name" }, isolated(unit.name));
  const click = (event) => (event.ctrlKey || event.metaKey || event.shiftKey ? range(unit.name, event.shiftKey) : open(state, parts, unit.name));
  const cells = cols.map((col) => {
    if (col.key === "name") return el("th", { scope: "row" }, name);
    const shown = col.show ? col.show(unit) : col.of(unit);
    const cell = el("td", { class: col.numeric ? "ms-num" : null }, col.numeric ? number(shown) : isolated(shown ?? "–"));
    const rank = col.rank?.(unit);
    if (rank !== null && rank !== undefined) cell.append(el("small", {}, `#${whole.format(rank)}`));
    return cell;
  });
  const rangeMeant = (event) => event.shiftKey && event.preventDefault(); // a range of rows is meant, not of text
  const node = el("tr", { click, mousedown: rangeMeant, "data-name": unit.name }, el("td", { class: "ms-pick" }, pick), ...cells);
  const m = state.live ? cells[1] : null;
  let last = null;
  return {
    unit,
    at,
    node,
    name,
    haystack: `${unit.name} layer ${unit.layer} ${unit.side ?? ""} ${unit.kind ?? ""} ${unit.in_circuit ? "circuit" : ""}`.toLowerCase(),
    refresh(reached) {
      const value = state.m(unit.name);
      const now = `${value} ${state.selection.has(unit.name)} ${unit.name === state.shown} ${reached}`;
      if (now === last && pick.checked === state.selection.has(unit.name)) return;
      last = now;
      pick.checked = state.selection.has(unit.name);
      pick.tabIndex = name.tabIndex = reached ? 0 : -1;
      node.classList.toggle("ms-shown", unit.name === state.shown);
      node.classList.toggle("ms-selected", pick.checked);
      if (unit.name === state.shown) node.setAttribute("aria-current", "true");
      else node.removeAttribute("aria-current");
      if (!m) return;
      m.textContent = number(value);
      m.classList.toggle("ms-moved", value !== 1);
    },
  };
}

// ---------------------------------------------------------------------------------------------- one unit's page

function page(state, parts) {
  const holder = el("div", { class: "ms-page" });
  const name = el("input", { type: "text", placeholder: "open any unit, e.g. L3.17", "aria-label": "name of a unit to open", spellcheck: "false" });
  const bar = el("div", { class: "ms-bar" }, name, el("button", { type: "button", click: () => typed() }, "Open"));
  const select = el("label", { class: "ms-select" }, el("input", { type: "checkbox", change: () => toggle(state, state.shown) }), " select");
  bar.append(select);
  onEnter(name, typed);
  function typed() {
    if (name.value.trim()) open(state, parts, name.value.trim());
    name.value = "";
  }
  holder.addEventListener("click", (event) => {
    const link = event.target.closest(":is(a, button)[data-unit]");
    if (!link || !holder.contains(link)) return;
    event.preventDefault();
    open(state, parts, link.dataset.unit);
  });
  let inside = null;
  state.views.push(() => {
    select.hidden = !known(state, state.shown);
    select.firstChild.checked = state.selection.has(state.shown);
    const html = state.opened.get(state.shown);
    const now = html === undefined ? `${state.shown} ${state.failed}` : html;
    if (now === inside) return;
    inside = now;
    holder.scrollTop = 0;
    if (html !== undefined) holder.innerHTML = html; // escaped in Python
    else holder.replaceChildren(el("p", { class: "ms-muted" }, ...waiting(state)));
  });
  return el("section", { class: "ms-unit-panel", "aria-label": "page of one unit" }, bar, holder);
}

function waiting(state) {
  if (state.shown === null && !state.units.size) return ["Type the name of a unit above: this is where its page opens."];
  if (state.shown === null) return ["Click a point of the plot or a row of the table: this is where the unit's page opens."];
  if (state.failed === state.shown || !state.live) return ["There is no page of ", isolated(state.shown), "."];
  return ["Opening ", isolated(state.shown), "…"];
}

// ---------------------------------------------------------------------------------------------- all of it

function header(state) {
  const { title, model, base, circuit, sides } = state.data;
  const facts = [
    model ? `${model.name}: ${count(model.units, "unit")} in ${count(model.layers, "layer")}` : null,
    base ? `base ${base.name}` : null,
    circuit ? `${circuit.name}, ${count(circuit.size, "unit")}` : null,
    sides?.positive ? `${sides.positive} against ${sides.negative}` : null,
  ].filter(Boolean);
  return el("header", {}, el("h3", {}, isolated(title)), el("p", {}, ...facts.flatMap((fact, i) => (i ? [" · ", isolated(fact)] : [isolated(fact)]))));
}

function mount(root, data, transport) {
  const state = new State(data, transport);
  const parts = { status: el("span", { class: "ms-status", role: "status" }) };
  // JupyterLab's single-letter shortcuts stay out of it.
  const shell = el("div", { class: `ms-explorer${state.live ? "" : " ms-offline"}`, "data-lm-suppress-shortcuts": "true" }, header(state));
  if (state.live) {
    const live = el("section", { class: "ms-live", "aria-label": "answers under multipliers" });
    live.append(prompter(state, parts), sliders(state, parts), controls(state, parts), answers(state, parts));
    shell.append(live);
  } else {
    shell.append(parts.status);
  }
  shell.append(el("div", { class: "ms-main-grid" }, el("div", { class: "ms-left" }, plot(state, parts), table(state, parts)), page(state, parts)));
  root.replaceChildren(shell);
  connect(state, parts);
  parts.draw();
  state.changed();
  return () => {
    state.cleanups.forEach((cleanup) => cleanup());
    shell.remove();
  };
}

// anywidget calls this; `mount` is what pages use.
function render({ model, el: root }) {
  return mount(root, model.get("document"), {
    send: (message) => model.send(message),
    listen(callback) {
      const heard = (message) => callback(message);
      model.on("msg:custom", heard);
      return () => model.off("msg:custom", heard);
    },
  });
}

export { mount };
export default { render };
