-- Puts a value in the place of another one, if that is still there. Nothing is written as ''.
--
-- KEYS  what is replaced, then nodes
-- ARGV  what it was, what it is to be, then who says so: only a member may
-- Gives 1 if it was done.
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 then return redis.error_reply('FENCED') end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('PERSIST', KEYS[2]) -- also where the memory is full; see commit.lua
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
