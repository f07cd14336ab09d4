// A crowd of the stock JavaScript client, each with a connection of its own: node crowd.mjs URL NUMBER
import { io } from "socket.io-client";

const [url, number] = process.argv.slice(2);
for (let each = 0; each < Number(number); each += 1) {
  io(url, { auth: { userId: `js-${each}` }, transports: ["websocket"], forceNew: true });
}
process.stdin.on("close", () => process.exit(0)).resume();
