#!lua flags=allow-oom
-- ARGV: me, lease, the longest pause between two renewals of anybody, then for each lease: id, what its holder says of it (empty: nothing).
-- Renews, and puts back what nobody renewed: a gateway died, which counts neither as a failure nor as a death. After a pause of Redis itself
-- everybody gets the time of a lease to renew first. A clock that was set back leaves times far ahead, which are brought near.
-- Answers: ids that somebody wants stopped, held tasks to look after from now on, heads.
local lease, pause, at = tonumber(ARGV[2]), tonumber(ARGV[3]), now()
local wanted, adopted = {}, {}
for n = 4, #ARGV, 2 do
  local id = ARGV[n]
  local fields = redis.call('HMGET', task_key(id), 'g', 's', 'c')
  if fields[1] == me and (fields[2] == 'l' or fields[2] == 'h' or fields[2] == 'r') then
    redis.call('ZADD', key('leases'), at + lease, id)
    if ARGV[n + 1] ~= '' then redis.call('HSET', task_key(id), 'd', ARGV[n + 1]) end
    if fields[3] then wanted[#wanted + 1] = id end
  end
end
local times = redis.call('MGET', key('renewed'), key('mercy'))
local mercy = tonumber(times[2] or '0')
if at - tonumber(times[1] or '0') > pause or mercy > at + lease then
  mercy = at + lease
  redis.call('SET', key('mercy'), mercy)
end
redis.call('SET', key('renewed'), at)
for _, id in ipairs(redis.call('ZRANGE', key('leases'), '(' .. at + 2 * lease, '+inf', 'BYSCORE', 'LIMIT', 0, 200)) do
  redis.call('ZADD', key('leases'), at + lease, id)
end
if at >= mercy then
  for _, id in ipairs(redis.call('ZRANGE', key('leases'), '-inf', at, 'BYSCORE', 'LIMIT', 0, 200)) do
    local fields = redis.call('HMGET', task_key(id), 's', 'l', 'r', 'm', 'i')
    if fields[1] == 'h' then
      redis.call('HSET', task_key(id), 'g', me)
      redis.call('ZADD', key('leases'), at + lease, id)
      adopted[#adopted + 1] = {id, fields[4], fields[5]}
    else
      redis.call('ZREM', key('leases'), id)
      if fields[1] == 'l' or fields[1] == 'r' then
        redis.call('HSET', task_key(id), 's', 'w', 'g', '')
        redis.call('HDEL', task_key(id), 'd')
        enqueue(id, fields[2], fields[3])
      end
    end
  end
end
return {wanted, adopted, heads()}
