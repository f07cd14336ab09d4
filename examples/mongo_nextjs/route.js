// app/api/presence-token/route.js, with the App Router: as presence-token.js is with pages. npm install jsonwebtoken
import jwt from "jsonwebtoken";
import { getSession } from "../../../lib/session"; // whatever tells you who is logged in

export async function GET() {
  const session = await getSession();
  if (!session) return new Response(null, { status: 401 });
  const claims = { sub: session.user._id.toString() };
  const token = jwt.sign(claims, process.env.HERENOW_JWT_SECRET, { algorithm: "HS256", expiresIn: "1h" });
  return new Response(token, { headers: { "Cache-Control": "no-store" } });
}
