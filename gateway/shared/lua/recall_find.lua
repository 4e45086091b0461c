-- The values of these names, "" where there is none; each one found counts as used now. Time is in milliseconds in this script.
--
-- KEYS  values (hash), ages (sorted set)
-- ARGV  now ("" is this server's time), age, then the names

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local oldest = now - tonumber(ARGV[2])
local found = {}
for i = 3, #ARGV do
  local used = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i]) or '-1')
  local value = used > oldest and redis.call('HGET', KEYS[1], ARGV[i])
  if value then redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[i]) end
  found[#found + 1] = value or ''
end
return found
