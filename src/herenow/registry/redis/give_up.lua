-- Gives a node up: it may not commit any more, and its users are to be looked after.
--
-- KEYS  nodes, beats, lost, filled
-- ARGV  the node, its beats as they were seen (none: whatever they are), when it last lived (ms), then who says so: only
--       a member may, and whoever was given up here and says it of itself, such as where the first answer was lost
-- Gives how many members are left; -1: it is none, or has beaten since.
local is_member = redis.call('HEXISTS', KEYS[1], ARGV[4]) == 1
if not is_member and ARGV[1] == ARGV[4] and redis.call('HEXISTS', KEYS[3], ARGV[4]) == 1 then
  return redis.call('HLEN', KEYS[1])
end
if not is_member then return redis.error_reply('FENCED') end
local beats = redis.call('HGET', KEYS[2], ARGV[1])
if not beats or (ARGV[2] ~= '' and beats ~= ARGV[2]) then return -1 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HSETNX', KEYS[3], ARGV[1], ARGV[3])
local left = redis.call('HLEN', KEYS[1])
if left == 0 and redis.call('GET', KEYS[4]) == 'yes' then redis.call('SET', KEYS[4], 'left') end
return left
