-- Commits what a node has decided for some users of one tenant: each whole, if nobody was faster with that user.
-- It is the ledger's twin (ledger.py): it knows no rule, gives out the versions, counts, and keeps order and log.
--
-- KEYS  users, due, order, counts, version, log, outcomes, sequence, skew, nodes, tenants, then the nodes that users
--       join or leave
-- ARGV  tenant, stamp of the commit, now (µs), how far that may be off (µs; 0: not looked at), the highest version that
--       the node has seen, length of the log, the node that must be a member (none: it is not looked at), 1 if it must be
--       done though the memory is full; then of each proposal: user, revision, state, news, and its numbers as MessagePack
-- Gives the id of the log's entry (false: there is none), then for each proposal the first of its versions; or, where
-- somebody was faster, what is there now: text, or false for nothing.
local users, due, order, counts, last, log, outcomes, sequence, skew, nodes, tenants = unpack(KEYS, 1, 11)
local tenant, stamp, now = ARGV[1], ARGV[2], tonumber(ARGV[3])

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

-- Above what any node has seen: after a failover that lost the last versions, none is given out twice.
local version = math.max(tonumber(redis.call('GET', last) or 0), tonumber(ARGV[5]))
local names = {'online', 'away', 'busy', 'connections', 'held', 'lingers_saved'}
local out, said = {false}, {}
for at = 9, #ARGV, 5 do
  local user, revision, state, news, numbers = unpack(ARGV, at, at + 4)
  local versions, shown_at, shown, above, due_ms, place_ms, deltas, joins, leaves = unpack(cmsgpack.unpack(numbers), 1, 9)
  local there = redis.call('HGET', users, user)
  if (there and string.sub(there, 1, 8) or '') ~= revision then
    out[#out + 1] = there
  else
    if version < above then version = above end
    local first = math.max(version + 1, now)
    if versions > 0 then version = first + versions - 1 end
    if shown_at > 0 then shown = first + shown_at - 1 end
    if state == '' then
      redis.call('HDEL', users, user)
    else
      redis.call('HSET', users, user, stamp .. struct.pack('>I8', shown) .. state)
    end
    if due_ms then redis.call('ZADD', due, due_ms, user) else redis.call('ZREM', due, user) end
    if place_ms then redis.call('ZADD', order, place_ms, user) else redis.call('ZREM', order, user) end
    for which, delta in ipairs(deltas) do
      if delta ~= 0 then redis.call('HINCRBY', counts, names[which], delta) end
    end
    for _, node in ipairs(joins) do redis.call('SADD', KEYS[11 + node], user) end
    for _, node in ipairs(leaves) do redis.call('SREM', KEYS[11 + node], user) end
    if news ~= '' then
      said[#said + 1] = string.format('%.0f:%d', first, #said)
      said[#said + 1] = news
    end
    out[#out + 1] = first
  end
end
if redis.call('SET', last, string.format('%.0f', version), 'GET') == false then redis.call('SADD', tenants, tenant) end
if #said > 0 then
  local place = string.format('%.0f', redis.call('INCR', sequence))
  out[1] = redis.call('XADD', log, 'MAXLEN', '~', ARGV[6], '*', 'schema', '1', 'place', place, 'tenant', tenant, unpack(said))
end
redis.call('HSET', outcomes, tenant, stamp .. cmsgpack.pack(out))
return out
