// The stock JavaScript client against a socketio_echo server: node scenarios.mjs URL TRANSPORTS
// Prints one line of JSON per scenario; exits with 1 at the first that fails.
import assert from "node:assert/strict";
import { io } from "socket.io-client";

const [url, transports] = process.argv.slice(2);

function open(options = {}, namespace = "/") {
  return io(url + namespace, {
    transports: transports.split(","),
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 100,
    ...options,
  });
}

function once(emitter, event, timeout = 5000) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${event} within ${timeout} ms`)), timeout);
    emitter.once(event, (...args) => {
      clearTimeout(timer);
      resolve(args);
    });
  });
}

const scenarios = {
  async "connects with its auth payload"() {
    const socket = open({ auth: { token: "123" } });
    assert.deepEqual(await once(socket, "auth"), [{ token: "123" }]);
    assert.equal(typeof socket.id, "string");
    socket.disconnect();
  },

  async "ends on the best transport that it may use"() {
    const socket = open();
    await once(socket, "connect");
    const wanted = transports.split(",").at(-1);
    const engine = socket.io.engine;
    if (engine.transport.name !== wanted) await once(engine, "upgrade");
    assert.equal(engine.transport.name, wanted);
    socket.emit("message", "after the upgrade");
    assert.deepEqual(await once(socket, "message-back"), ["after the upgrade"]);
    socket.disconnect();
  },

  async "loses and reorders nothing while it upgrades"() {
    const socket = open();
    const got = [];
    socket.on("message-back", (n) => got.push(n));
    await once(socket, "connect");
    for (let n = 0; n < 300; n++) {
      socket.emit("message", n);
      if (n % 30 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.deepEqual(await socket.timeout(5000).emitWithAck("message-with-ack", "done"), "done");
    assert.deepEqual(got, [...Array(300).keys()]);
    socket.disconnect();
  },

  async "acknowledges, with binary in both directions"() {
    const socket = open();
    const answer = await socket.timeout(5000).emitWithAck("message-with-ack", { deep: [Buffer.from([1, 2, 3])] });
    assert.deepEqual(Buffer.from(answer.deep[0]), Buffer.from([1, 2, 3]));
    socket.emit("message", Buffer.from([4]), "text", { a: new Uint8Array([5, 6]) });
    const [first, text, second] = await once(socket, "message-back");
    assert.deepEqual([...new Uint8Array(first)], [4]);
    assert.equal(text, "text");
    assert.deepEqual([...new Uint8Array(second.a)], [5, 6]);
    socket.disconnect();
  },

  async "shares one connection between namespaces"() {
    const main = open({ forceNew: false });
    const custom = io(url + "/custom", { transports: transports.split(",") });
    await Promise.all([once(main, "auth"), once(custom, "auth")]);
    assert.equal(main.io, custom.io);
    custom.emit("message", "custom");
    assert.deepEqual(await once(custom, "message-back"), ["custom"]);
    custom.disconnect();
    main.emit("message", "main");
    assert.deepEqual(await once(main, "message-back"), ["main"]);
    main.disconnect();
  },

  async "is refused an unknown namespace"() {
    const socket = open({}, "/nowhere");
    const [error] = await once(socket, "connect_error");
    assert.equal(error.message, "Invalid namespace");
    socket.disconnect();
  },

  async "comes back after its transport broke"() {
    const socket = open();
    await once(socket, "connect");
    const before = socket.id;
    const gone = once(socket, "disconnect");
    const back = new Promise((resolve) => socket.io.once("reconnect", resolve));
    socket.io.engine.close();
    await gone;
    await back;
    if (!socket.connected) await once(socket, "connect");
    assert.notEqual(socket.id, before);
    assert.equal(await socket.timeout(5000).emitWithAck("message-with-ack", 7), 7);
    socket.disconnect();
  },

  async "stays connected over many pings"() {
    const socket = open();
    await once(socket, "connect");
    let pings = 0;
    socket.io.on("ping", () => pings++);
    socket.on("disconnect", (reason) => assert.fail(`disconnected: ${reason}`));
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.ok(pings >= 3, `only ${pings} pings`);
    socket.off("disconnect");
    socket.disconnect();
  },

  async "sends text of any script, and half a surrogate pair does it no harm"() {
    const socket = open();
    const text = "é ☃ \u{1f600} \u2028 \u0000 \\ \" </script>";
    assert.equal(await socket.timeout(5000).emitWithAck("message-with-ack", text), text);
    assert.equal(await socket.timeout(5000).emitWithAck("message-with-ack", "cut \ud83d"), "cut \ufffd");
    socket.disconnect();
  },
};

for (const [name, run] of Object.entries(scenarios)) {
  await run();
  console.log(JSON.stringify({ passed: name }));
}
process.exit(0);
