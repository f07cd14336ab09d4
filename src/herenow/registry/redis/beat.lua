-- Says that a node lives, and tells it how the shard stands.
--
-- KEYS  nodes, beats, lost, leader, log, sequence, skew, filled, cursor
-- ARGV  node
-- Gives whether the node is a member (else nothing is done), the time (s, µs, skew in ms), the log's last entry and its
-- place, the leader, whether the store's users are here, the cursor, of all nodes the beats, and of those given up when
-- they last lived.
local is_member = redis.call('HEXISTS', KEYS[1], ARGV[1])
if is_member == 1 then
  redis.call('PERSIST', KEYS[1]) -- also where the memory is full; see commit.lua
  redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
end
local time = redis.call('TIME')
local last = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)[1]
return {
  is_member, time[1], time[2], redis.call('GET', KEYS[7]) or '', last and last[1] or '0-0',
  redis.call('GET', KEYS[6]) or '0', redis.call('GET', KEYS[4]) or '', redis.call('GET', KEYS[8]) or '',
  redis.call('GET', KEYS[9]) or '', redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3]),
}
