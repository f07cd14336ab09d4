// Stock JavaScript clients that begin with polling: node upgrades.mjs URL NUMBER
// Prints, as a list, what carries each of them once it was answered over it.
import { io } from "socket.io-client";

const [url, number] = process.argv.slice(2);
const moved = Array.from({ length: Number(number) }, (_, each) => new Promise((resolve) => {
  const socket = io(url, { auth: { userId: `js-${each}` }, forceNew: true });
  socket.on("connect", () => {
    const { engine } = socket.io;
    const answered = () => socket.emit("presence:get", { users: ["nobody"] }, () => resolve(engine.transport.name));
    engine.on("upgrade", answered);
    setTimeout(answered, 10_000);
  });
}));
console.log(JSON.stringify(await Promise.all(moved)));
process.exit(0);
