-- Counts one request of a team, or says which limit is reached and counts nothing: every check stands before the first write.
-- Time is in milliseconds in this script; a window is a hash of seconds to what was counted in each.
--
-- KEYS  requests (window), tokens (window), places (sorted set: request id -> when its lease ends)
-- ARGV  id, tokens, requests_per_minute, tokens_per_minute, concurrent ("" is no limit), lease, now ("" is this server's time)
-- Returns {"", second} or {name of the limit, what is used of it, milliseconds to wait}.

local SPAN = 60
local id, tokens, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[6])
local requests_limit, tokens_limit, places_limit = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local now = tonumber(ARGV[7])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local second = math.floor(now / 1000)
-- A second counts as long as any part of it lies within the last sixty.
local oldest = second - SPAN

local function window(key)
  local counts, stale, total = {}, {}, 0
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local at = tonumber(flat[i])
    -- Far in the future: the server's clock was put back.
    if at < oldest or at > second + SPAN then
      stale[#stale + 1] = flat[i]
    else
      counts[at] = tonumber(flat[i + 1])
      total = total + counts[at]
    end
  end
  return {counts = counts, stale = stale, total = total}
end

-- How long until so much of what is counted has left the window; longest where there is not so much in it.
local function wait(counts, much)
  for at = oldest, second + SPAN do
    much = much - (counts[at] or 0)
    if much <= 0 then return (at + SPAN + 1) * 1000 - now end
  end
  return SPAN * 2000
end

local refusal = nil
local function refuse(name, used, pause)
  if not refusal or pause > refusal[3] then refusal = {name, used, pause} end
end

local requests, counted
if requests_limit then
  requests = window(KEYS[1])
  local over = requests.total + 1 - requests_limit
  if over > 0 then refuse('requests_per_minute', requests.total, wait(requests.counts, over)) end
end
if tokens_limit then
  counted = window(KEYS[2])
  local over = counted.total + tokens - tokens_limit
  if over > 0 then refuse('tokens_per_minute', counted.total, wait(counted.counts, over)) end
end
if places_limit then
  local open = redis.call('ZCOUNT', KEYS[3], '(' .. string.format('%.0f', now), '+inf')
  if open + 1 > places_limit then refuse('concurrent', open, 0) end
end
if refusal then return refusal end

local function add(key, stale, count)
  if #stale > 0 then redis.call('HDEL', key, unpack(stale)) end
  redis.call('HINCRBY', key, string.format('%.0f', second), string.format('%.0f', count))
  redis.call('PEXPIRE', key, (SPAN + 2) * 1000)
end

if requests then add(KEYS[1], requests.stale, 1) end
if counted then add(KEYS[2], counted.stale, tokens) end
if places_limit then
  redis.call('ZADD', KEYS[3], string.format('%.0f', now + lease), id)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[3], lease)
end
return {'', second}
