// Who is online, kept true in a browser: the client's half of herenow's wire contract (docs/wire.md), in one class.
import { io } from "./vendor/socket.io.esm.min.js";

const RETRY_MS = 3_000;

/**
 * Watches everybody.
 *
 * Events: "state" {state, message} with connecting | online | reconnecting | refused; "ready" (the server's greeting);
 * "users" (look at `users`); "change" (one Change, with its cause); "trouble" {code, message}.
 */
export class Presence extends EventTarget {
  users = new Map(); // by userId, as the server last told
  invisible = false; // whether others see this user as offline

  #socket;
  #version; // up to which nothing is missing; undefined until a snapshot is whole
  #clockAheadMs = 0;
  #retry;
  #here = new AbortController(); // until we leave

  constructor(userId) {
    super();
    this.userId = userId;
    // WebSocket first: a session on long polling that is cut off before its upgrade is only missed by its heartbeat.
    // Beside the page, wherever a proxy serves it.
    const path = new URL("socket.io/", document.baseURI).pathname;
    this.#socket = io({ path, auth: { userId }, transports: ["websocket", "polling"], tryAllTransports: true });
    this.#tell("state", { state: "connecting" });
    this.#socket.on("presence:ready", (ready) => this.#ready(ready));
    this.#socket.on("presence:diff", (diff) => this.#diff(diff));
    this.#socket.on("presence:error", (error) => this.#tell("trouble", error));
    this.#socket.on("disconnect", (reason) => this.#lost(reason));
    this.#socket.on("connect_error", (error) => this.#failed(error));
    const { signal } = this.#here;
    addEventListener("pagehide", ({ persisted }) => persisted && this.#sleep(), { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && this.#connect(), { signal });
  }

  /** The server's time, in milliseconds: a visitor's clock may be wrong by hours. */
  now() {
    return Date.now() - this.#clockAheadMs;
  }

  /** Sends an event; gives the answer, or throws an Error with the server's sentence, `code` and `temporary`. */
  async ask(event, payload = {}) {
    const answer = await this.#socket.timeout(10_000).emitWithAck(event, payload);
    if (answer.ok) return answer;
    throw Object.assign(new Error(answer.error.message), answer.error);
  }

  /** Asks to be seen as "away", "busy" or "invisible" (undefined: as one is), with a text; null gives it all up. */
  async claim(claim) {
    const before = this.invisible;
    this.invisible = claim.availability === "invisible"; // known before the change comes, which may be first
    try {
      return (await this.ask("presence:claim", claim)).user;
    } catch (error) {
      this.invisible = before;
      throw error;
    }
  }

  /** Leaves on purpose: offline at once, with no grace. */
  leave() {
    clearTimeout(this.#retry);
    this.#here.abort();
    this.#socket.disconnect();
  }

  /** A page that sleeps for the back button keeps its socket open, and its user online: it goes, without a goodbye. */
  #sleep() {
    clearTimeout(this.#retry);
    this.#socket.io.engine?.close();
    this.#socket.disconnect();
    this.#tell("state", { state: "reconnecting" });
  }

  #connect() {
    clearTimeout(this.#retry);
    this.#socket.connect();
  }

  async #ready(ready) {
    this.#clockAheadMs = Date.now() - Date.parse(ready.serverTime);
    this.#tell("state", { state: "online" });
    this.#tell("ready", ready);
    await this.#look();
  }

  async #look() {
    try {
      await this.#watch();
    } catch (error) {
      if (!this.#socket.connected) return; // the next connection looks again
      this.#tell("trouble", { code: error.code, message: error.message });
      if (error.temporary !== false) this.#later(() => this.#look());
    }
  }

  async #watch() {
    // Who was away for a moment is told only what is newer, as long as the server still has it.
    let page = await this.ask("presence:watch", { all: true, since: this.#version });
    if (page.full) {
      const before = page.version;
      const listed = new Set();
      this.#version = undefined;
      for (;;) {
        for (const user of page.users) listed.add(user.userId);
        this.#keep(page.users);
        if (page.cursor === undefined) break;
        page = await this.ask("presence:watch", { all: true, cursor: page.cursor });
      }
      // A whole snapshot lists everybody who is online. Whoever we still have as online is not, unless newer than it.
      for (const user of this.users.values()) {
        if (user.isOnline && user.version <= before && !listed.has(user.userId)) this.users.delete(user.userId);
      }
      this.#version = Math.max(before, this.#seen);
    } else {
      for (const user of page.users) if (this.#keep([user])) this.#tell("change", user);
      this.#version = page.version;
    }
    await this.#lookAtMyself();
  }

  async #lookAtMyself() {
    // One who is invisible is in nobody's list, but sees themself when they ask by name.
    const { users } = await this.ask("presence:get", { users: [this.userId] });
    this.invisible = users[0].isOnline && !this.users.get(this.userId)?.isOnline;
    if (this.invisible) this.users.set(this.userId, users[0]);
    this.#tell("users");
  }

  #seen = 0;

  #diff({ version, changes }) {
    this.#seen = version;
    if (this.#version !== undefined) this.#version = version;
    for (const change of changes) {
      if (change.userId === this.userId && change.cause !== "claim") this.invisible = false; // it ran out
      if (this.#keep([change])) this.#tell("change", change);
    }
    this.#tell("users");
  }

  /** Takes what is newer than what we have. Diffs and snapshots may cross on their way; versions order them. */
  #keep(users) {
    let news = false;
    for (const user of users) {
      const known = this.users.get(user.userId);
      if (known && known.version >= user.version) continue;
      this.users.set(user.userId, user);
      news = true;
    }
    return news;
  }

  #lost(reason) {
    clearTimeout(this.#retry);
    if (reason === "io client disconnect") return;
    this.#tell("state", { state: "reconnecting", message: reason });
    // The stock client leaves it to us whether to come back from this.
    if (reason === "io server disconnect") this.#later(() => this.#connect());
  }

  #failed(error) {
    const { code, temporary } = error.data ?? {};
    if (code === undefined) {
      this.#tell("state", { state: "reconnecting", message: "the server cannot be reached" });
    } else {
      this.#tell("state", { state: "refused", message: error.message, temporary });
      if (temporary) this.#later(() => this.#connect());
      else this.#here.abort();
    }
  }

  #later(what) {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(what, RETRY_MS);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
