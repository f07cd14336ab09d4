// pages/api/presence-token.js: the only thing that your server does for presence. npm install jsonwebtoken
import jwt from "jsonwebtoken";
import { getSession } from "../../lib/session"; // whatever tells you who is logged in

export default async function handler(request, response) {
  const session = await getSession(request, response);
  if (!session) return response.status(401).end();
  const claims = { sub: session.user._id.toString() };
  response.setHeader("Cache-Control", "no-store");
  response.send(jwt.sign(claims, process.env.HERENOW_JWT_SECRET, { algorithm: "HS256", expiresIn: "1h" }));
}
