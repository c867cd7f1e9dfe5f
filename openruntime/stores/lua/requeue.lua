#!lua flags=allow-oom
-- ARGV: me, then for each: id, lane, rank, predicted, record, inputs (empty: as they were), blobs. Back into its lane, by whoever held it.
for n = 2, #ARGV, 7 do
  local id, lane = ARGV[n], ARGV[n + 1]
  local fields = redis.call('HMGET', task_key(id), 's', 'g', 'l', 'x')
  local state = fields[1]
  if state and state ~= 'e' and (state == 'w' or fields[2] == me) then
    if state == 'w' then redis.call('ZREM', lane_key(fields[3]), id) end
    redis.call('ZREM', key('leases'), id)
    redis.call('SREM', key('held'), id)
    redis.call('HSET', task_key(id), 's', 'w', 'g', '', 'l', lane, 'r', ARGV[n + 2], 'f', ARGV[n + 3], 'm', ARGV[n + 4], 'u', me)
    redis.call('HDEL', task_key(id), 'd')
    if ARGV[n + 5] ~= '' then
      count_blobs(ARGV[n + 6], 1)
      count_blobs(fields[4], -1)
      redis.call('HSET', task_key(id), 'i', ARGV[n + 5], 'x', ARGV[n + 6])
    end
    enqueue(id, lane, ARGV[n + 2])
  end
end
return heads()
