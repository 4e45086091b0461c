-- Whether this server runs scripts that write.
--
-- KEYS  a key of no other use

return redis.call('SET', KEYS[1], '1', 'PX', 1000)
