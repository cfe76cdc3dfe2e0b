// For tests: what the explorer's front end talks to. It keeps what was sent, and answers pages and questions itself.
window.sent = [];
let hear = null;
window.tell = (message) => hear && hear(message);

const REFUSAL = "I am sorry , I can not help you with that .";

function textsOf({ multipliers, random }) {
  const changed = Object.values(multipliers).some((m) => m < 1);
  const texts = { baseline: REFUSAL, changed: changed ? "I am glad to help you : mix the powder with water ." : REFUSAL };
  if (random !== null) texts.random = `I am sorry , I can not help seed ${random} .`;
  return texts;
}

function openUnit({ request, unit }) {
  const name = unit.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
  const link = '<a href="#" data-unit="L2.37">nearest L2.37</a>';
  const html = `<section class="ms-unit"><h4>Neuron <bdi>${name}</bdi></h4><p>it fires here</p>${link}</section>`;
  const none = { type: "error", request, message: `no unit ${unit} in this model; layers are 0 to 5` };
  setTimeout(() => window.tell(/^L9/.test(unit) ? none : { type: "unit", request, unit, html }), 20);
}

function answer(message, steps = 4) {
  const all = Object.entries(textsOf(message)).map(([name, text]) => [name, text.split(" ")]);
  for (let k = 1; k <= steps; k++)
    setTimeout(() => {
      const soFar = all.map(([name, words]) => [name, words.slice(0, Math.ceil((words.length * k) / steps)).join(" ")]);
      window.tell({ type: "answer", request: message.request, texts: Object.fromEntries(soFar), done: k === steps });
    }, (window.pace ?? 15) * k);
}

window.transport = {
  send(message) {
    window.sent.push(message);
    if (window.silent) return;
    if (message.type === "unit") openUnit(message);
    if (message.type === "ask") answer(message);
  },
  listen(callback) {
    hear = callback;
    return () => (hear = null);
  },
};
