-- `Books.write` of accounts.py, atomic in Redis and by Redis' own clock. What it means is said there; the two are held together by a test.
-- KEYS: counters (hash), entries (hash), leases (sorted set) of one account.
-- ARGV: time ("" for the server's), seconds to keep, id; then threes and nines: spent, wanted, kept, booked; limits (-1: none);
--       windows and counters as the caller last saw them, so that a Redis that lost its memory is told; the writing's number.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end
local keep, id, number = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[37])

local function numbers(first, count)
  local found = {}
  for i = 1, count do found[i] = tonumber(ARGV[first + i - 1]) end
  return found
end
local function int(x) return string.format('%.0f', x) end
local function joined(values)
  local texts = {}
  for i, value in ipairs(values) do texts[i] = int(value) end
  return table.concat(texts, ' ')
end
local function parsed(text)
  local found = {}
  for word in string.gmatch(text or '', '%S+') do found[#found + 1] = tonumber(word) end
  return found
end
local function calendar_month(days) -- Howard Hinnant, "chrono-compatible low-level date algorithms": civil_from_days
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local from_march = math.floor((5 * doy + 2) / 153)
  local after = from_march >= 10
  return (yoe + era * 400 + (after and 1 or 0)) * 12 + (after and from_march - 10 or from_march + 2)
end

local spent, wanted, kept, booked = numbers(4, 3), numbers(7, 3), numbers(10, 3), numbers(13, 3)
local limits, seen_windows, seen = numbers(16, 9), numbers(25, 3), numbers(28, 9)
local kept_in = redis.call('HMGET', KEYS[1], 'windows', 'used', 'held')
local windows, used, held = parsed(kept_in[1] or '0 0 0'), parsed(kept_in[2] or '0 0 0 0 0 0 0 0 0'), parsed(kept_in[3] or '0 0 0')

local function turn(to)
  for span = 1, 3 do
    if to[span] > windows[span] then
      for unit = 0, 2 do used[unit * 3 + span] = 0 end
      windows[span] = to[span]
    end
  end
end
turn(seen_windows)
for i = 1, 9 do
  local span = (i - 1) % 3 + 1
  if seen_windows[span] == windows[span] and seen[i] > used[i] then used[i] = seen[i] end
end
local days = math.floor(now / 86400)
turn({math.floor(now / 60), days, calendar_month(days)})

for _, ended in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.6f', now), 'LIMIT', 0, 1000)) do
  local line = parsed(redis.call('HGET', KEYS[2], ended))
  for unit = 1, 3 do held[unit] = held[unit] - (line[3 + unit] or 0) end
  redis.call('HDEL', KEYS[2], ended)
  redis.call('ZREM', KEYS[3], ended)
end

local line = parsed(redis.call('HGET', KEYS[2], id) or (joined(booked) .. ' 0 0 0 ' .. number))
if number < line[7] then
  spent, wanted, kept, number = {line[1], line[2], line[3]}, {line[4], line[5], line[6]}, {line[4], line[5], line[6]}, line[7]
end
local others = {}
for unit = 1, 3 do others[unit] = held[unit] - line[3 + unit] end
for i = 1, 9 do
  local unit = math.floor((i - 1) / 3) + 1
  used[i] = used[i] + spent[unit] - line[unit]
end

local verdict, meter = 'granted', 0
for i = 1, 9 do
  local unit = math.floor((i - 1) / 3) + 1
  if limits[i] >= 0 and wanted[unit] > kept[unit] then
    if used[i] + wanted[unit] > limits[i] then
      verdict, meter = 'short', i
    elseif used[i] + others[unit] + wanted[unit] > limits[i] and verdict ~= 'short' then
      verdict, meter = 'busy', i
    end
  end
end
local holds = verdict == 'granted' and wanted or kept
for unit = 1, 3 do held[unit] = others[unit] + holds[unit] end

redis.call('HSET', KEYS[1], 'windows', joined(windows), 'used', joined(used), 'held', joined(held))
if joined(spent) == '0 0 0' and joined(holds) == '0 0 0' then -- refused at the door, or only looking: nothing to remember
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
else
  redis.call('HSET', KEYS[2], id, joined(spent) .. ' ' .. joined(holds) .. ' ' .. int(number))
  redis.call('ZADD', KEYS[3], string.format('%.6f', now + keep), id)
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, 3456000) end -- forty days: longer than the longest window
return {verdict, meter - 1, joined(windows), joined(used), joined(held), string.format('%.6f', now)}
