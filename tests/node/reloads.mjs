// A page that is reloaded N times at random moments inside the grace, as a watcher sees it: node reloads.mjs URL N
import { io } from "socket.io-client";

const [url, times] = process.argv.slice(2);
const options = { transports: ["websocket"], forceNew: true };
const user = `reloads-${process.pid}`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const connected = (socket) => new Promise((resolve) => socket.once("presence:ready", resolve));

const watcher = io(url, { ...options, auth: { userId: "reloads-watcher" } });
await connected(watcher);
const changes = [];
watcher.on("presence:diff", ({ changes: some }) => changes.push(...some.map((change) => change.cause)));
await watcher.emitWithAck("presence:watch", { users: [user] });

let page = io(url, { ...options, auth: { userId: user } });
await connected(page);
for (let n = 0; n < Number(times); n++) {
  await pause(Math.random() * 300);
  page.io.reconnection(false);
  page.io.engine.close(); // what the browser does when a page goes: the transport closes, nothing is said
  await pause(Math.random() * 500);
  page = io(url, { ...options, auth: { userId: user } });
  await connected(page);
}
await pause(2500);
const { users } = await watcher.emitWithAck("presence:get", { users: [user] });
console.log(JSON.stringify({ reloads: Number(times), changes, final: users[0].availability }));
process.exit(0);
