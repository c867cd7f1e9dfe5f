#!lua flags=no-writes
-- ARGV: me, namespace, key.
local fields = redis.call('HMGET', key('shelf:' .. ARGV[2] .. ':' .. ARGV[3]), 'm', 'a', 'e')
if not fields[1] or tonumber(fields[3]) <= now() then return false end
return {fields[1], fields[2]}
