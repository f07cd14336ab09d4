// The stock JavaScript client, ended by the server, as it tells of it itself: node coming-back.mjs URL TRANSPORTS
// Prints a line for each thing that happens; ends with its standard input.
import { io } from "socket.io-client";

const [url, transports] = process.argv.slice(2);
const socket = io(url, {
  auth: { userId: `js-${transports}` },
  transports: transports.split(","),
  reconnectionDelay: 50,
  reconnectionDelayMax: 200,
});
socket.on("presence:ready", () => console.log("ready"));
socket.on("presence:error", ({ code }) => console.log(code));
socket.on("disconnect", () => console.log("disconnected"));
process.stdin.on("end", () => process.exit(0)).resume();
