// Who of some users is online, kept true: the whole of it, for any framework. usePresence.js makes a React hook of it.
import { io } from "socket.io-client";

/**
 * @param {string} url of the herenow server
 * @param {() => Promise<string>} getToken asks your own server for a token (pages/api/presence-token.js)
 * @param {string[]} userIds whom to watch
 * @param {(users: Map<string, {isOnline: boolean, availability: string, lastActive: string|null}>) => void} onUsers
 * @returns {() => void} leaves
 */
export function watchPresence(url, getToken, userIds, onUsers) {
  const users = new Map();
  const socket = io(url, { auth: (send) => getToken().then((token) => send({ token })) });
  const keep = (some) => {
    for (const user of some) {
      if (!(users.get(user.userId)?.version >= user.version)) users.set(user.userId, user);
    }
    onUsers(new Map(users));
  };
  socket.on("presence:diff", ({ changes }) => keep(changes));
  socket.on("presence:ready", async () => {
    const answer = await socket.emitWithAck("presence:watch", { users: userIds });
    if (answer.ok) keep(answer.users);
  });
  socket.on("presence:error", async ({ code }) => {
    if (code === "token_expiring") socket.emit("presence:refresh", { token: await getToken() });
  });
  socket.on("connect_error", (error) => {
    if (error.data?.temporary) setTimeout(() => socket.connect(), error.data.retryAfterMs ?? 3000);
  });
  return () => socket.disconnect();
}
