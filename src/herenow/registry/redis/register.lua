-- Makes a node a member: from now on it may commit. What it was before is no member any more.
--
-- KEYS  nodes, beats, lost, id
-- ARGV  node, what it says of itself, the node that it was before (none: it was none), time (ms), the id of the cluster
--       as the node knows it, or one for a new cluster, the name that must be nobody else's (none: any may), then the nodes
--       that have had it, and are dead
-- Gives the id of the cluster; false: another node has the name, and nothing is done.
if ARGV[6] ~= '' then
  local dead = {[ARGV[1]] = true} -- itself, where the answer to the first try was lost
  for at = 7, #ARGV do dead[ARGV[at]] = true end
  for _, node in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.match(node, '^(.*):%x+$') == ARGV[6] and not dead[node] then return false end
  end
end
redis.call('PERSIST', KEYS[1]) -- also where the memory is full; see commit.lua
if ARGV[3] ~= '' then
  redis.call('HDEL', KEYS[1], ARGV[3])
  redis.call('HDEL', KEYS[2], ARGV[3])
  redis.call('HSETNX', KEYS[3], ARGV[3], ARGV[4])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], 1)
redis.call('SET', KEYS[4], ARGV[5], 'NX')
return redis.call('GET', KEYS[4])
