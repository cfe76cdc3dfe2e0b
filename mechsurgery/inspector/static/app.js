// The explorer in the local app: fetches the document, opens the connection, hands both to `mount`.
import { mount } from "./explorer.js";

const MOST_WAITING = 100; // messages kept while the connection opens
const token = new URLSearchParams(location.search).get("token") ?? "";
const query = `?token=${encodeURIComponent(token)}`;

/** Shows one sentence above the explorer, or hides it again. */
function say(text) {
  const place = document.getElementById("state");
  place.textContent = text;
  place.hidden = text === "";
}

/** A transport for `mount` over one websocket: what is sent before it opens waits. */
function connect() {
  const listeners = new Set();
  const waiting = [];
  const socket = new WebSocket(`ws://${location.host}/socket${query}`);
  socket.addEventListener("open", () => {
    for (const message of waiting.splice(0)) socket.send(message);
  });
  socket.addEventListener("message", (event) => {
    const message = JSON.parse(event.data);
    for (const listener of [...listeners]) listener(message);
  });
  socket.addEventListener("close", (event) => {
    const why = event.reason || "the app has ended";
    say(`No longer connected: ${why}. What is shown stays; reload the page once the app runs again.`);
  });
  return {
    send(message) {
      const text = JSON.stringify(message);
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
      else if (socket.readyState === WebSocket.CONNECTING && waiting.length < MOST_WAITING) waiting.push(text);
    },
    listen(callback) {
      listeners.add(callback);
      return () => listeners.delete(callback);
    },
  };
}

const answer = await fetch(`/document.json${query}`);
if (answer.ok) {
  say("");
  mount(document.getElementById("explorer"), await answer.json(), connect());
} else {
  say(await answer.text());
}
