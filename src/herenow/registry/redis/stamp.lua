-- Gives out a version that no change has.
--
-- KEYS  version, tenants
-- ARGV  now (µs), the highest version that the node has seen, tenant
local version = math.max(tonumber(redis.call('GET', KEYS[1]) or 0) + 1, tonumber(ARGV[1]), ARGV[2] + 1)
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], string.format('%.0f', version))
return version
