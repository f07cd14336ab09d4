-- Agrees on another Redis process than before: the one after a failover, or after a restart. It may have lost the last
-- of what the old one knew. So from the first node on that says so, nothing is given out that any has seen.
--
-- KEYS  generation, log, sequence, skew
-- ARGV  the process, the last entry that the node has read (ms, number), its place, the node's time (µs), how far that
--       may be off (µs)
-- Gives 1 for the first node to say so, and the entry of the log with which it was said.
redis.call('PERSIST', KEYS[1]) -- also where the memory is full; see commit.lua
local known = redis.call('GET', KEYS[1])
local process, entry = string.match(known or '', '^(%S+) (%S+)$')
if process ~= ARGV[1] then
  local time = redis.call('TIME')
  local here = time[1] * 1000000 + time[2] + 1000 * (redis.call('GET', KEYS[4]) or 0)
  local off = tonumber(ARGV[5]) - here
  if math.abs(off) > tonumber(ARGV[6]) then
    redis.call('INCRBY', KEYS[4], string.format('%.0f', off / 1000))
  end
end
-- The next entry is above all that this node has read, be it the first to say so or not.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local ms, number = string.match(last and last[1] or '0-0', '(%d+)-(%d+)')
ms, number = tonumber(ms), tonumber(number)
local seen_ms, seen_number, place = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local is_behind = ms < seen_ms or (ms == seen_ms and number < seen_number)
local here_place = tonumber(redis.call('GET', KEYS[3]) or 0)
if process == ARGV[1] and not is_behind then return {0, entry} end
place = string.format('%.0f', math.max(place, here_place) + 1)
redis.call('SET', KEYS[3], place)
local id = '*'
if is_behind then id = string.format('%.0f-%.0f', seen_ms, seen_number + 1) end
-- 'again' says whether anything of what was before is left.
local again = known and '1' or '0'
id = redis.call('XADD', KEYS[2], id, 'schema', '1', 'place', place, 'tenant', '', 'again', again)
if process == ARGV[1] then return {0, entry} end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. id)
return {1, id}
