import { io } from "socket.io-client";
const [url, transports] = process.argv.slice(2);
const s = io(url, { auth:{userId:"js"}, transports: transports.split(",") });
s.on("presence:ready", () => console.log("ready", Date.now()));
s.on("disconnect", (r) => console.log("disconnect", r, Date.now()));
s.on("presence:error", (e) => console.log("error", e.code));
s.on("connect_error", (e) => console.log("connect_error", e.message));
