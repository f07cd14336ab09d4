// In a client component:  const { users, live } = usePresence(friends.map((friend) => friend._id));
//                         live ? users.get(friend._id)?.isOnline : "nobody knows now"
"use client";
import { useEffect, useState } from "react";
import { connectPresence } from "./presence.js";

const KEEP_MS = 5_000; // a page that mounts anew, or React's Strict Mode, is no reason to leave

async function getToken() {
  const answer = await fetch("/api/presence-token", { signal: AbortSignal.timeout(10_000) });
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return answer.text();
}

// One connection for all components of the page, for as long as one of them needs it.
const listeners = new Set();
let shown = { users: new Map(), live: false, state: "connecting" };
let connection;
let leaving;

function hold(listener) {
  clearTimeout(leaving);
  listeners.add(listener);
  listener(shown);
  connection ??= connectPresence(process.env.NEXT_PUBLIC_PRESENCE_URL, getToken, (users, state) => {
    shown = { users, live: state === "live", state };
    for (const each of listeners) each(shown);
  });
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) leaving = setTimeout(leave, KEEP_MS);
  };
}

function leave() {
  connection.leave();
  connection = undefined;
  shown = { users: new Map(), live: false, state: "connecting" };
}

export function usePresence(userIds) {
  const [now, setNow] = useState(shown);
  const key = userIds.join();
  useEffect(() => hold(setNow), []);
  useEffect(() => connection.watch(key ? key.split(",") : []), [key]);
  return now;
}
