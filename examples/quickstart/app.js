// The page. What comes from the server is put in with textContent only: a user may be called <script>.
import { Presence } from "./presence.js";

const MOST_LINES = 50;
const IDLE_AFTER_MS = 120_000;
const ACTIVE_EVERY_MS = 30_000;
const NAMES = ["alice", "bob", "carol", "dave", "erin", "frank"];
const CAUSES = {
  connect: "connected", left: "left", closed: "connection closed", timeout: "connection went silent",
  error: "connection failed", restart: "server restarted", node_lost: "server lost", cleanup: "cleaned up",
  stale: "silent for too long", idle: "device idle", active: "device in use", claim: "their choice",
  claim_expired: "their choice ran out", repair: "database repaired",
};

const at = (id) => document.getElementById(id);
let presence;

// -- joining -----------------------------------------------------------------------------------------------------------

const asked = new URLSearchParams(location.search).get("name");
const name = asked ?? sessionStorage.getItem("name"); // of this tab, so that a reload comes back as the same user
if (name) start(name);
else showJoin();

function showJoin(refusal) {
  document.title = "herenow: who is online";
  at("room").hidden = true;
  at("join").hidden = false;
  at("refusal").hidden = !refusal;
  at("refusal").textContent = refusal ?? "";
  at("state").dataset.state = refusal ? "refused" : "closed";
  at("state").textContent = refusal ? "refused" : "not connected";
  at("name").focus();
}

at("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = at("name").value.trim();
  if (name) start(name);
});

function start(name) {
  sessionStorage.setItem("name", name);
  if (location.search) history.replaceState(null, "", location.pathname);
  document.title = `${name} · herenow`;
  at("join").hidden = true;
  at("room").hidden = false;
  const other = NAMES.find((each) => each !== name);
  at("second").textContent = `open a second tab as ${other}`;
  at("second").href = `?name=${other}`;
  at("log").replaceChildren();
  at("log-empty").hidden = false;
  at("status-form").reset();

  presence = new Presence(name);
  presence.addEventListener("state", ({ detail }) => showState(detail));
  presence.addEventListener("ready", ({ detail }) => {
    at("within").textContent = detail.bounds.offlineWithinMs / 1000;
  });
  presence.addEventListener("users", render);
  presence.addEventListener("users", () => {
    at("text").value ||= presence.users.get(presence.userId)?.statusText ?? ""; // a claim outlives the page
  }, { once: true });
  presence.addEventListener("change", ({ detail }) => addLine(detail));
  presence.addEventListener("trouble", ({ detail }) => showError(detail.message));
  render();
}

at("leave").addEventListener("click", () => {
  presence.leave();
  presence = undefined;
  sessionStorage.removeItem("name");
  showJoin();
});

function showState({ state, message, temporary }) {
  if (state === "refused" && !temporary) {
    presence = undefined;
    sessionStorage.removeItem("name");
    showJoin(`The server refused: ${message}`);
    return;
  }
  const words = { connecting: "connecting…", online: "connected", reconnecting: "reconnecting…", refused: "refused" };
  at("state").dataset.state = state;
  at("state").textContent = state === "refused" ? `refused: ${message}; trying again` : words[state];
  at("state").title = message ?? "";
  if (state === "online") {
    showError("");
    showNode();
  }
  at("room").classList.toggle("cut-off", state !== "online");
}

async function showNode() { // of several, each has an address of its own here (make run-cluster)
  try {
    const { node } = await (await fetch("readyz")).json();
    if (node.name !== "local") at("state").textContent += ` to ${node.name}`;
  } catch {} // it is only for those who look
}

// -- saying how one is -------------------------------------------------------------------------------------------------

function chosen() {
  if (presence.invisible) return "invisible";
  const { availability } = presence.users.get(presence.userId) ?? {};
  return availability === "away" || availability === "busy" ? availability : "";
}

at("choices").addEventListener("click", ({ target }) => {
  if (target.dataset.availability !== undefined) send(target.dataset.availability);
});
at("status-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send(chosen());
});

async function send(availability) {
  const claim = {};
  const text = at("text").value.trim();
  const minutes = Number(at("until").value);
  if (availability) claim.availability = availability;
  if (text) claim.text = text;
  if (minutes) claim.until = new Date(presence.now() + minutes * 60_000).toISOString();
  try {
    // Available, with nothing to say: give the claim up.
    await presence.claim(availability || text ? claim : { availability: null });
    showError("");
    render();
  } catch (error) {
    showError(error.message);
  }
}

function showError(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
}

// A device that nobody touches is idle; a user whose devices all are is away.
let lastInput = Date.now();
let lastActive = Date.now();
let idle = false;
for (const kind of ["pointerdown", "pointermove", "keydown", "focus"]) {
  window.addEventListener(kind, () => {
    lastInput = Date.now();
    if (idle || lastInput - lastActive > ACTIVE_EVERY_MS) {
      idle = false;
      lastActive = lastInput;
      presence?.ask("presence:active").catch(() => {}); // the next one will do
    }
  }, { passive: true });
}

// -- what is seen ------------------------------------------------------------------------------------------------------

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function person(user, { mine }) {
  const row = element(mine ? "div" : "li", "person");
  const availability = mine && presence.invisible ? "invisible" : user.availability;
  const face = element("span", "face", Array.from(user.userId)[0].toUpperCase());
  face.dataset.hue = hueOf(user.userId);
  face.append(element("span", `dot ${availability}`));
  const words = element("span", "words");
  const line = element("span", "line");
  line.append(element("bdi", "name", user.userId));
  if (user.userId === presence.userId) line.append(element("span", "you", "you"));
  words.append(line);
  if (user.statusText) words.append(element("bdi", "text", user.statusText));
  const facts = element("span", "facts");
  facts.append(element("span", `availability ${availability}`, availability));
  if (user.lastActive) {
    const ago = element("span", "time");
    ago.dataset.words = user.isOnline ? "active" : "last active";
    ago.dataset.since = user.lastActive;
    facts.append(ago);
  }
  if (user.statusUntil) {
    const left = element("span", "time");
    left.dataset.until = user.statusUntil;
    facts.append(left);
  }
  row.append(face, words, facts);
  return row;
}

/** One of twelve colours of the style sheet: inline styles are for nobody here, the policy of the page forbids them. */
function hueOf(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 4093;
  return sum % 12;
}

function render() {
  if (!presence) return;
  const everybody = [...presence.users.values()].sort((a, b) => a.userId.localeCompare(b.userId));
  const shown = everybody.filter((user) => !(presence.invisible && user.userId === presence.userId));
  const online = shown.filter((user) => user.isOnline);
  const gone = shown.filter((user) => !user.isOnline).sort((a, b) => b.version - a.version);
  const myself = presence.users.get(presence.userId)
    ?? { userId: presence.userId, availability: "offline", isOnline: false };
  at("self").replaceChildren(...person(myself, { mine: true }).childNodes);
  at("online").replaceChildren(...online.map((user) => person(user, {})));
  at("gone").replaceChildren(...gone.slice(0, 20).map((user) => person(user, {})));
  at("gone-part").hidden = gone.length === 0;
  at("online-count").textContent = online.length;
  for (const button of at("choices").children) {
    button.setAttribute("aria-pressed", String(button.dataset.availability === chosen()));
  }
  tick();
}

function addLine(change) {
  const line = element("li");
  line.append(element("time", "", new Date(presence.now()).toLocaleTimeString()));
  const what = element("span", "what");
  const invisible = presence.invisible && change.userId === presence.userId;
  what.append(element("bdi", "name", change.userId), ` is ${invisible ? "invisible" : change.availability}`);
  if (change.statusText) what.append(": ", element("bdi", "", change.statusText));
  line.append(what);
  if (change.cause) {
    const cause = element("span", "cause", CAUSES[change.cause] ?? change.cause);
    cause.title = change.cause;
    line.append(cause);
  }
  at("log").prepend(line);
  at("log-empty").hidden = true;
  while (at("log").children.length > MOST_LINES) at("log").lastChild.remove();
}

function lasting(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`;
}

function tick() {
  if (!presence) return;
  const now = presence.now();
  for (const time of document.querySelectorAll(".time")) {
    const { words, since, until } = time.dataset;
    time.textContent = since ? `${words} ${lasting(now - Date.parse(since))} ago` : `${lasting(Date.parse(until) - now)} left`;
  }
}

setInterval(() => {
  tick();
  if (presence && !idle && Date.now() - lastInput > IDLE_AFTER_MS) {
    idle = true;
    presence.ask("presence:idle").catch(() => {}); // not connected: a new connection begins in use, and is asked again
  }
}, 1_000);
