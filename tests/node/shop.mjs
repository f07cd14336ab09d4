// A Mongoose application, before herenow, with it, and after it: node shop.mjs MONGODB_URL old|new|sync
// Prints what it sees as one line of JSON, and with "old" goes on writing whole documents until it is stopped. With
// "sync" it has the old schema, and makes the indexes those of the schema, whatever others there are.
import mongoose from "mongoose";

const [url, age] = process.argv.slice(2);
const fields = {
  name: String,
  email: { type: String, unique: true },
  passwordHash: String,
  roles: [String],
  createdAt: Date,
};
let userSchema;
if (age !== "new") {
  userSchema = new mongoose.Schema({ ...fields, isOnline: Boolean, lastActive: Date });
} else {
  ({ userSchema } = await import("./user.mjs")); // the schema of docs/mongodb.md
}
await mongoose.connect(url);
const User = mongoose.model("User", userSchema);
await User.init();
const { toDrop } = await User.diffIndexes();
if (age === "sync") {
  await User.syncIndexes();
}
const online = await User.find({ isOnline: true }).sort({ lastActive: -1 });
const whole = JSON.stringify(await User.find());
console.log(JSON.stringify({ online: online.length, toDrop, tells: whole.includes("claim") || whole.includes("presence") }));
if (age === "old") {
  const first = await User.findOne().sort({ _id: 1 });
  for (;;) {
    first.set({ isOnline: true, lastActive: new Date() }); // a socket is open, it thinks
    await first.save();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
await mongoose.disconnect();
