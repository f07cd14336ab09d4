// Runs lines as mongosh does, which is not to be had from npm: node mongosh.mjs MONGODB_URL LINE...
import mongoose from "mongoose";

const [url, ...lines] = process.argv.slice(2);
const client = await mongoose.mongo.MongoClient.connect(url);
const db = new Proxy(client.db(), { get: (database, name) => database.collection(name) });
for (const line of lines) await new Function("db", `return ${line}`)(db);
await client.close();
console.log("done");
