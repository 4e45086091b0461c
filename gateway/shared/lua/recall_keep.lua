-- Keeps entries, and lets go of those that are too old, and of the least recently used where there is no more room.
-- Time is in milliseconds in this script.
--
-- KEYS  values (hash: name -> value), ages (sorted set: name -> last use), size (bytes of all)
-- ARGV  now ("" is this server's time), age, room, overhead of an entry, then for each: name, value, "1" where another value under
--       the same name makes it "*"

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local age, room, overhead = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local size = tonumber(redis.call('GET', KEYS[3]) or '0')

local function weight(name, value)
  return #name + #value + overhead
end

local function drop(name)
  local value = redis.call('HGET', KEYS[1], name)
  if value then
    size = size - weight(name, value)
    redis.call('HDEL', KEYS[1], name)
  end
  redis.call('ZREM', KEYS[2], name)
end

for i = 5, #ARGV, 3 do
  local name, value = ARGV[i], ARGV[i + 1]
  local known = redis.call('HGET', KEYS[1], name)
  if known then
    size = size - weight(name, known)
    if ARGV[i + 2] == '1' and known ~= value then value = '*' end
  end
  redis.call('HSET', KEYS[1], name, value)
  redis.call('ZADD', KEYS[2], string.format('%.0f', now), name)
  size = size + weight(name, value)
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - age), 'LIMIT', 0, 256)) do
  drop(name)
end
while size > room do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not oldest then break end
  drop(oldest)
end
redis.call('SET', KEYS[3], string.format('%.0f', math.max(size, 0)))
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], string.format('%.0f', age))
end
return 1
