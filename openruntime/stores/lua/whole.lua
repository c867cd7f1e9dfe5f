#!lua flags=no-writes
-- Whether the log has never been cut.
local info = redis.call('XINFO', 'STREAM', key('events'))
for n = 1, #info, 2 do
  if info[n] == 'entries-added' then return info[n + 1] == redis.call('XLEN', key('events')) and 1 or 0 end
end
return 0
