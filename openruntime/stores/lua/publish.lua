#!lua
-- ARGV: me, number, events, entries kept. Their last number, by which the log goes on: microseconds at least, so that it rises even where Redis lost it.
local last = math.max(tonumber(redis.call('GET', key('seq')) or '0'), micros()) + tonumber(ARGV[2])
local text = string.format('%.0f', last)
redis.call('SET', key('seq'), text)
redis.call('XADD', key('events'), 'MAXLEN', '~', ARGV[4], text .. '-0', 'g', me, 'n', ARGV[2], 'e', ARGV[3])
return text
