// Three tabs of one user, closed in every order, as a watcher sees it: node tabs.mjs URL
import { io } from "socket.io-client";

const [url] = process.argv.slice(2);
const options = { forceNew: true };
const user = `tabs-${process.pid}`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const connected = (socket) => new Promise((resolve) => socket.once("presence:ready", resolve));

const watcher = io(url, { ...options, auth: { userId: "tabs-watcher" } });
await connected(watcher);
const changes = [];
watcher.on("presence:diff", ({ changes: some }) => changes.push(...some.map((change) => change.cause)));
await watcher.emitWithAck("presence:watch", { users: [user] });

const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
for (const order of orders) {
  const tabs = [];
  for (let n = 0; n < 3; n++) {
    tabs.push(io(url, { ...options, auth: { userId: user } }));
    await connected(tabs[n]);
  }
  for (const n of order) {
    tabs[n].disconnect();
    await pause(150);
  }
}
console.log(JSON.stringify({ orders: orders.length, changes }));
process.exit(0);
