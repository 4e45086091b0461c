-- Gives the place of a request back and corrects its tokens. Time is in milliseconds in this script.
--
-- KEYS  tokens (window), places
-- ARGV  id, correction (what was used less what was estimated), the second in which it was admitted, now ("" is this server's time)
-- More than was estimated counts from now on; less is taken back from the second in which it was counted, never below zero.

local SPAN = 60
local correction = tonumber(ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[1])
if correction > 0 then
  local now = tonumber(ARGV[4])
  local second = now and math.floor(now / 1000) or tonumber(redis.call('TIME')[1])
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', second), string.format('%.0f', correction))
  redis.call('PEXPIRE', KEYS[1], (SPAN + 2) * 1000)
elseif correction < 0 then
  local counted = tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or '0')
  local less = math.min(counted, -correction)
  if less > 0 then redis.call('HINCRBY', KEYS[1], ARGV[3], string.format('%.0f', -less)) end
end
return 1
