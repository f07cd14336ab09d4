-- Reads a page of those who are online, most recently active first.
--
-- KEYS  order, users, nodes
-- ARGV  the node that must be a member (none: it is not looked at), how many, then the place after which the page begins: last activity (ms) and user; or nothing
-- Gives the users, each followed by what is held of them.
local order, users = KEYS[1], KEYS[2]

-- A Redis that has lost all must not be taken for one that has nobody.
if ARGV[1] ~= '' and redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then return redis.error_reply('FENCED') end

-- As Redis orders them: by their bytes, where Lua's own `<` asks the machine's language.
local function is_before(one, other)
  for at = 1, math.min(#one, #other) do
    local a, b = string.byte(one, at), string.byte(other, at)
    if a ~= b then return a < b end
  end
  return #one < #other
end

local rank = 0
if ARGV[3] then
  -- Among those with the same time the order is by user, backwards: find the first who is before, by halves.
  local low = redis.call('ZCOUNT', order, '(' .. ARGV[3], '+inf')
  local high = low + redis.call('ZCOUNT', order, ARGV[3], ARGV[3])
  while low < high do
    local middle = math.floor((low + high) / 2)
    local user = redis.call('ZREVRANGE', order, middle, middle)[1]
    if is_before(user, ARGV[4]) then high = middle else low = middle + 1 end
  end
  rank = low
end
local page = {}
for _, user in ipairs(redis.call('ZREVRANGE', order, rank, rank + ARGV[2] - 1)) do
  page[#page + 1] = user
  page[#page + 1] = redis.call('HGET', users, user)
end
return page
