#!lua flags=no-writes
-- ARGV: me, namespace, tenant (with a leading =, or empty for all), after, most.
local space, found = 'shelf:' .. ARGV[2], {}
local after, most = ARGV[4], tonumber(ARGV[5])
while #found < most do
  local names = redis.call('ZRANGE', key(space .. '|names'), after == '' and '-' or '(' .. after, '+', 'BYLEX', 'LIMIT', 0, 200)
  if #names == 0 then break end
  for _, name in ipairs(names) do
    local fields = redis.call('HMGET', key(space .. ':' .. name), 'm', 't', 'e')
    if #found < most and fields[1] and tonumber(fields[3]) > now() and (ARGV[3] == '' or ARGV[3] == '=' .. fields[2]) then
      found[#found + 1] = {name, fields[1]}
    end
  end
  after = names[#names]
end
return found
