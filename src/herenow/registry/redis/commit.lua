-- Commits what a node has decided for some users of one tenant: each whole, if nobody was faster with that user.
-- It is the ledger's twin (ledger.py): it knows no rule, gives out the versions, counts, and keeps order and log.
--
-- KEYS  users, due, order, counts, version, log, outcomes, sequence, skew, nodes, tenants, then the nodes that users
--       join or leave
-- ARGV  tenant, stamp of the commit, now (µs), how far that may be off (µs; 0: not looked at), the highest version that
--       the node has seen, length of the log, the node that must be a member (none: it is not looked at), 1 if it must be
--       done though the memory is full, the numbers of all proposals as MessagePack; then of each proposal: user, revision,
--       state, news
-- Gives the id of the log's entry (false: there is none), then for each proposal the first of its versions; or, where
-- somebody was faster, what is there now: text, or false for nothing.
local users, due, order, counts, last, log, outcomes, sequence, skew, nodes, tenants = unpack(KEYS, 1, 11)
local tenant, stamp, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST, EACH = 10, 4

-- A commit that is sent again, since its answer was lost, has the answer that it had.
local before = redis.call('HGET', outcomes, tenant)
if before and string.sub(before, 1, 8) == stamp then return cmsgpack.unpack(string.sub(before, 9)) end

-- A node that was given up, or of which a Redis that lost all knows nothing, has to register anew first.
if ARGV[7] ~= '' and redis.call('HEXISTS', nodes, ARGV[7]) == 0 then return redis.error_reply('FENCED') end

local slack = tonumber(ARGV[4])
if slack > 0 then
  local time = redis.call('TIME')
  local here = time[1] * 1000000 + time[2] + 1000 * (redis.call('GET', skew) or 0)
  if math.abs(here - now) > slack then
    return redis.error_reply('SKEWED')
  end
end

-- Redis asks for memory at the first write of a script only: behind one that needs none, the others are let through.
if ARGV[8] == '1' then redis.call('PERSIST', nodes) end

-- All that is written is gathered, and each key is written once: a call from here costs more than what it does.
local asked = {}
for at = FIRST, #ARGV, EACH do asked[#asked + 1] = ARGV[at] end
local held = redis.call('HMGET', users, unpack(asked))
local all_numbers = cmsgpack.unpack(ARGV[9])
local states, gone, falls_due, never_due, placed, nowhere = {}, {}, {}, {}, {}, {}
local sums, joined, left = {0, 0, 0, 0, 0, 0}, {}, {}
local out, said = {false}, {}

local function add(list, one, other)
  list[#list + 1] = one
  if other then list[#list + 1] = other end
end

local function add_under(lists, key, one)
  if not lists[key] then lists[key] = {} end
  add(lists[key], one)
end

-- Above what any node has seen: after a failover that lost the last versions, none is given out twice.
local version = math.max(tonumber(redis.call('GET', last) or 0), tonumber(ARGV[5]))
for number, user in ipairs(asked) do
  local at = FIRST + EACH * (number - 1)
  local revision, state, news, there = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], held[number]
  if (there and string.sub(there, 1, 8) or '') ~= revision then
    add(out, there)
  else
    local versions, shown_at, shown, above, due_ms, place_ms, deltas, joins, leaves = unpack(all_numbers[number], 1, 9)
    if version < above then version = above end
    local first = math.max(version + 1, now)
    if versions > 0 then version = first + versions - 1 end
    if shown_at > 0 then shown = first + shown_at - 1 end
    if state == '' then add(gone, user) else add(states, user, stamp .. struct.pack('>I8', shown) .. state) end
    if due_ms then add(falls_due, due_ms, user) else add(never_due, user) end
    if place_ms then add(placed, place_ms, user) else add(nowhere, user) end
    for which, delta in ipairs(deltas) do sums[which] = sums[which] + delta end
    for _, node in ipairs(joins) do add_under(joined, KEYS[11 + node], user) end
    for _, node in ipairs(leaves) do add_under(left, KEYS[11 + node], user) end
    if news ~= '' then add(said, string.format('%.0f:%d', first, #said), news) end
    add(out, first)
  end
end

local function call(command, key, list)
  if #list > 0 then redis.call(command, key, unpack(list)) end
end

call('HSET', users, states)
call('HDEL', users, gone)
call('ZADD', due, falls_due)
call('ZREM', due, never_due)
call('ZADD', order, placed)
call('ZREM', order, nowhere)
for which, name in ipairs({'online', 'away', 'busy', 'connections', 'held', 'lingers_saved'}) do
  if sums[which] ~= 0 then redis.call('HINCRBY', counts, name, sums[which]) end
end
for node, list in pairs(joined) do call('SADD', node, list) end
for node, list in pairs(left) do call('SREM', node, list) end
if redis.call('SET', last, string.format('%.0f', version), 'GET') == false then redis.call('SADD', tenants, tenant) end
if #said > 0 then
  local place = string.format('%.0f', redis.call('INCR', sequence))
  out[1] = redis.call('XADD', log, 'MAXLEN', '~', ARGV[6], '*', 'schema', '1', 'place', place, 'tenant', tenant, unpack(said))
end
redis.call('HSET', outcomes, tenant, stamp .. cmsgpack.pack(out))
return out
