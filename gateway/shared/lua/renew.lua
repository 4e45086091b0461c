-- Gives open requests of one gateway a new lease. A place that was lost (a server that came back empty) is taken again.
-- Time is in milliseconds in this script.
--
-- KEYS  places
-- ARGV  lease, now ("" is this server's time), id, id, …

local lease, now = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + lease), ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], lease)
return #ARGV - 2
