// In a client component:  const users = usePresence(friends.map((friend) => friend._id));
//                         users.get(friend._id)?.isOnline
import { useEffect, useState } from "react";
import { watchPresence } from "./presence.js";

const getToken = () => fetch("/api/presence-token").then((answer) => answer.text());

export function usePresence(userIds) {
  const [users, setUsers] = useState(new Map());
  const key = userIds.join();
  useEffect(
    () => watchPresence(process.env.NEXT_PUBLIC_PRESENCE_URL, getToken, key ? key.split(",") : [], setUsers),
    [key],
  );
  return users;
}
