// Who of some users is online, kept true, and honest when that cannot be known: the whole of it, for any framework.
// usePresence.js makes a React hook of it.
import { io } from "socket.io-client";

const RETRY_MS = 3_000;
const MOST_IN_ONE_QUESTION = 1_000;

/**
 * Connects; the connection makes its own user be online.
 *
 * @param {string} url of the herenow server
 * @param {() => Promise<string>} getToken asks your own server for a token; it throws when there is none to be had now
 * @param {(users: Map<string, User>, state: string) => void} onChange called with all that is known, when it changes;
 *   state is "live", "connecting", "stale" (cut off: what `users` says was true, and may be no more) or "refused" (the
 *   server does not want this user, and is not asked again). Show nobody as online unless it is "live"; of whom `users`
 *   has nothing, nothing is known.
 * @returns {{watch: (userIds: string[]) => void, unwatch: (userIds: string[]) => void, leave: () => void}}
 *
 * @typedef {{userId: string, isOnline: boolean, availability: string, lastActive: string|null, version: number}} User
 */
export function connectPresence(url, getToken, onChange) {
  const users = new Map();
  const watched = new Set();
  let state = "connecting";
  let hasToken = true;
  let since = 0; // the version at which this connection began
  const timers = {};

  const tell = (now = state) => onChange(new Map(users), (state = now));
  const later = (what, ms = RETRY_MS) => {
    clearTimeout(timers[what.name]);
    timers[what.name] = setTimeout(what, ms);
  };
  const stopWaiting = () => Object.values(timers).forEach(clearTimeout);

  // Answers and diffs may cross on their way: the higher version is newer. But what an earlier connection was told may
  // have been lost with its server: then the answer is right, whatever its version.
  const keep = (some) => {
    for (const user of some) {
      const known = users.get(user.userId);
      if (!known || known.version <= since || known.version <= user.version) users.set(user.userId, user);
    }
  };

  // A page that cannot get a token goes without one, is refused, and knows why.
  const authenticate = async (send) => {
    const { engine } = socket.io;
    const token = await getToken().catch(() => undefined);
    if (engine !== socket.io.engine) return; // that connection has gone meanwhile; the next one asks for itself
    hasToken = token !== undefined;
    send(hasToken ? { token } : {});
  };
  const socket = io(url, { auth: authenticate, transports: ["websocket", "polling"], tryAllTransports: true });

  const ask = async (event, payload) => {
    const answer = await socket.timeout(10_000).emitWithAck(event, payload);
    if (!answer.ok) throw Object.assign(new Error(answer.error.message), answer.error);
    return answer;
  };

  async function watchAll() {
    try {
      const all = [...watched];
      for (let at = 0; at < all.length; at += MOST_IN_ONE_QUESTION) {
        keep((await ask("presence:watch", { users: all.slice(at, at + MOST_IN_ONE_QUESTION) })).users);
      }
      if (socket.connected) tell("live");
    } catch (error) {
      if (!socket.connected) return; // the next connection asks again
      if (error.temporary === false) console.error(`presence: ${error.message}`);
      else later(watchAll, error.retryAfterMs);
    }
  }

  async function refresh() {
    try {
      await ask("presence:refresh", { token: await getToken() });
    } catch {
      if (socket.connected) later(refresh); // until the token is over, and the next connection brings a new one
    }
  }

  function connect() {
    stopWaiting();
    socket.connect();
  }

  socket.on("presence:ready", ({ version }) => {
    since = version;
    watchAll();
  });
  socket.on("presence:diff", ({ changes }) => {
    keep(changes);
    tell();
  });
  socket.on("presence:error", ({ code }) => {
    if (code === "token_expiring") refresh();
  });
  socket.on("disconnect", (reason) => {
    stopWaiting();
    if (reason === "io client disconnect") return; // we have left, or sleep
    tell(reason === "io server disconnect" ? "refused" : "stale"); // put out by an operator: not to come back
  });
  socket.on("connect_error", ({ data, message }) => {
    if (data === undefined) return tell("stale"); // no answer: the client tries again by itself
    const heals = data.temporary || !hasToken || data.code === "token_expired";
    if (!heals) console.error(`presence: ${message}`);
    tell(heals ? "stale" : "refused");
    if (heals) later(connect, data.retryAfterMs);
  });

  // A page that sleeps for the back button keeps its socket open, and its user online: it goes, and comes back. Without
  // a goodbye, so that a quick return is seen by nobody.
  const sleep = ({ persisted }) => {
    if (!persisted || state === "refused") return;
    stopWaiting();
    socket.io.engine?.close();
    socket.disconnect();
    tell("stale");
  };
  const wake = ({ persisted }) => {
    if (persisted && state !== "refused") connect();
  };
  addEventListener("pagehide", sleep);
  addEventListener("pageshow", wake);

  return {
    watch(userIds) {
      const more = userIds.filter((id) => !watched.has(id));
      for (const id of more) watched.add(id);
      if (more.length && socket.connected) watchAll();
    },
    unwatch(userIds) {
      for (const id of userIds) if (watched.delete(id)) users.delete(id);
      if (socket.connected) ask("presence:unwatch", { users: userIds }).catch(() => {}); // the next connection will know
    },
    leave() {
      stopWaiting();
      removeEventListener("pagehide", sleep);
      removeEventListener("pageshow", wake);
      socket.disconnect();
    },
  };
}
