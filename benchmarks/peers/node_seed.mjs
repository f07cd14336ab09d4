// The design that herenow grew from, as well as its users would write it: each join is one write to MongoDB and one
// broadcast to everybody; a disconnect waits two seconds, looks whether the user has another socket, and does the same.
// Where BENCH_CLUSTER names a Redis, it is one server of several, with the adapter that Socket.IO's page advises.
import { createServer } from "node:http";
import { MongoClient } from "mongodb";
import { engine, port, tuned } from "./tuning.mjs";

const options = await engine(tuned);
const { Server } = await import("socket.io"); // after the choice: it loads ws

let adapter;
if (process.env.BENCH_CLUSTER) {
  const { createClient } = await import("redis");
  const { createAdapter } = await import("@socket.io/redis-streams-adapter");
  adapter = createAdapter(await createClient({ url: process.env.BENCH_CLUSTER }).connect());
}

const client = await MongoClient.connect(process.env.BENCH_DATABASE);
const users = client.db().collection("users");

const http = createServer();
const io = new Server(http, {
  ...options,
  ...(adapter && { adapter }),
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

const sockets = new Map(); // by user

async function tell(userId, isOnline) {
  const lastActive = new Date();
  io.emit("user-status", { userId, isOnline, lastActive });
  await users.updateOne({ _id: userId }, { $set: { isOnline, lastActive } });
}

io.on("connection", (socket) => {
  const { userId } = socket.handshake.auth;
  const mine = sockets.get(userId) ?? new Set();
  mine.add(socket.id);
  sockets.set(userId, mine);
  socket.emit("online-users", [...sockets.keys()]);
  if (mine.size === 1) tell(userId, true).catch(console.error);
  socket.on("disconnect", () => {
    mine.delete(socket.id);
    setTimeout(() => {
      if (mine.size === 0 && sockets.get(userId) === mine) {
        sockets.delete(userId);
        tell(userId, false).catch(console.error);
      }
    }, 2000);
  });
});

http.listen(port, "127.0.0.1", 4096, () => process.stdout.write("ready\n"));
