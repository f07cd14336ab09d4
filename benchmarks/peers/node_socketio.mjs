// Socket.IO on Node, as its documentation advises where only speed and memory count: websocket only, no compression,
// one io.emit() to everybody (encoded once by its adapter), and the first HTTP request of each session let go.
import { createServer } from "node:http";
import { setImmediate } from "node:timers/promises";
import { engine, port, tuned } from "./tuning.mjs";

const options = await engine(tuned);
const { Server } = await import("socket.io"); // after the choice: it loads ws

// The same bytes as EVENT_PACKET in benchmarks/wire.py; the load compares every delivery with that.
const diff = () => ({
  changes: [{ userId: "6565f0c1a2b3c4d5e6f70812", isOnline: true, lastActive: "2026-11-22T10:00:00.000Z" }],
});

const http = createServer();
const io = new Server(http, {
  ...options,
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  pingInterval: 25_000,
  pingTimeout: 20_000,
});

io.engine.on("connection", (rawSocket) => {
  rawSocket.request = null;
});

io.on("connection", (socket) => {
  socket.on("go", async (rounds) => {
    for (let round = 0; round < rounds; round += 1) {
      io.emit("presence:diff", diff());
      await setImmediate();
    }
  });
});

http.listen(port, "127.0.0.1", 2048, () => process.stdout.write("ready\n"));
