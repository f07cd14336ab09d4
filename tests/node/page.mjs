// The presence.js of examples/mongo_nextjs with the stock client: node page.mjs URL TOKEN USER
// Prints each state, and whether the user is online, when it changes; does what a line of its standard input says:
// "no token" and "token" (its token address fails, and answers again), "sleep" and "wake" (as for the back button).
import { createInterface } from "node:readline";

const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.removeEventListener = page.removeEventListener.bind(page);
const { connectPresence } = await import("./presence.mjs");

const [url, token, user] = process.argv.slice(2);
let answers = true;
let before;
const presence = connectPresence(
  url,
  async () => {
    if (!answers) throw new Error("502");
    return token;
  },
  (users, state) => {
    const now = state === "live" ? `${user} ${users.get(user).isOnline}` : state;
    if (now !== before) console.log((before = now));
  },
);
presence.watch([user]);

createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "no token") answers = false;
  if (line === "token") answers = true;
  if (line === "sleep") page.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
  if (line === "wake") page.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
});
