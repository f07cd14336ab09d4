// What Socket.IO's page on performance advises beside what all Node peers do: native code for WebSocket frames.
// `bufferutil` is there, and `ws` finds it by itself, so that the untuned peers are started without it; `eiows` in the
// place of `ws` where somebody has installed it. (Its installation builds from a clone of Node's sources.)
export async function engine(tuned) {
  if (!tuned) {
    process.env.WS_NO_BUFFER_UTIL = "1";
    return {};
  }
  try {
    const eiows = await import("eiows");
    return { wsEngine: eiows.default.Server };
  } catch {
    return {};
  }
}

export const tuned = process.argv.includes("--tuned");
export const port = Number(process.argv.at(-1));
