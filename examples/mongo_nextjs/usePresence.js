// In a client component:  const { users, live } = usePresence(friends.map((friend) => friend._id));
//                         live ? users.get(friend._id)?.isOnline : "nobody knows now"
"use client";
import { useEffect, useSyncExternalStore } from "react";
import { connectPresence } from "./presence.js";

const KEEP_MS = 5_000; // a page that mounts anew, or React's Strict Mode, is no reason to leave

async function getToken() {
  const answer = await fetch("/api/presence-token", { signal: AbortSignal.timeout(10_000) });
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return answer.text();
}

// One connection for all components of the page, for as long as one of them needs it.
const NOTHING = { users: new Map(), live: false, state: "connecting" };
const listeners = new Set();
const wanted = new Map(); // how many components want each user
let shown = NOTHING;
let connection;
let leaving;

function hold(listener) {
  clearTimeout(leaving);
  listeners.add(listener);
  connection ??= connectPresence(process.env.NEXT_PUBLIC_PRESENCE_URL, getToken, (users, state) => {
    shown = { users, live: state === "live", state };
    for (const each of listeners) each();
  });
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) leaving = setTimeout(leave, KEEP_MS);
  };
}

function leave() {
  connection.leave();
  connection = undefined;
  shown = NOTHING;
}

function want(userIds) {
  for (const id of userIds) wanted.set(id, (wanted.get(id) ?? 0) + 1);
  connection.watch(userIds);
  return () => {
    for (const id of userIds) wanted.set(id, wanted.get(id) - 1);
    const nobodys = userIds.filter((id) => wanted.get(id) === 0);
    for (const id of nobodys) wanted.delete(id);
    if (nobodys.length) setTimeout(() => connection?.unwatch(nobodys.filter((id) => !wanted.has(id))), KEEP_MS);
  };
}

export function usePresence(userIds) {
  const now = useSyncExternalStore(hold, () => shown, () => NOTHING);
  const key = JSON.stringify(userIds.map(String));
  useEffect(() => want(JSON.parse(key)), [key]);
  return now;
}
