-- Says that Redis has lost users of a tenant, if it has: more are counted than are there. What is left is removed, so
-- that all are said again, as after the loss of everything.
--
-- KEYS  users, counts, due, order, filled, log, sequence, nodes, then whom each node serves
-- ARGV  tenant, then who says so: only a member may
-- Gives 1 if it has.
local users, counts, due, order, filled, log, sequence, nodes = unpack(KEYS, 1, 8)
if redis.call('HEXISTS', nodes, ARGV[2]) == 0 then return redis.error_reply('FENCED') end
if redis.call('HLEN', users) >= tonumber(redis.call('HGET', counts, 'held') or 0) then return 0 end
redis.call('DEL', users, counts, due, order, filled, unpack(KEYS, 9))
local place = string.format('%.0f', redis.call('INCR', sequence))
redis.call('XADD', log, '*', 'schema', '1', 'place', place, 'tenant', ARGV[1], 'lost', '1')
return 1
