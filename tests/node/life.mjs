// The stock JavaScript client, as it tells of itself: node life.mjs URL TRANSPORTS USER
// Prints a line for each thing that happens to it, and does what a line of its standard input says.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const [url, transports, userId] = process.argv.slice(2);
const socket = io(url, { auth: { userId }, transports: transports.split(",") });
socket.on("presence:ready", () => console.log("ready"));
socket.on("presence:error", ({ code }) => console.log(code));
socket.on("connect_error", ({ data }) => data && console.log(`refused: ${data.code}, temporary: ${data.temporary}`));
socket.on("disconnect", () => console.log("disconnected"));

createInterface(process.stdin)
  .on("line", (line) => {
    if (line === "leave") socket.emit("presence:leave", {});
    if (line === "disconnect") socket.disconnect();
    if (line === "exit") process.exit(0);
  })
  .on("close", () => process.exit(0));
