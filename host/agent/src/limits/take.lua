-- Takes from limits, or charges them: all of it or nothing, by this server's clock.
-- KEYS: the limits. ARGV: 'take' or 'charge', then for each key its cost and its period in nanoseconds; a cost below zero
-- gives back. A limit is kept as "BACKLOG AT": nanoseconds of backlog at a time in microseconds.
-- Returns the place of the first limit that does not fit (0: none) and its backlog, or else the first limit's new backlog.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local must_fit = ARGV[1] == 'take'
local after = {}
for i, key in ipairs(KEYS) do
  local cost, period = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local backlog = 0
  local kept = redis.call('GET', key)
  if kept then
    local held, at = string.match(kept, '^(%d+) (%d+)$')
    if held then
      backlog = math.max(0, tonumber(held) - math.max(0, now - tonumber(at)) * 1000)
    end
  end
  if must_fit and backlog + cost > period then
    return {i, string.format('%.0f', backlog)}
  end
  after[i] = math.max(0, backlog + cost)
end
for i, key in ipairs(KEYS) do
  if after[i] > 0 then
    local drained = math.ceil(after[i] / 1000000) + 1000
    redis.call('SET', key, string.format('%.0f %.0f', after[i], now), 'PX', string.format('%.0f', drained))
  else
    redis.call('DEL', key)
  end
end
return {0, string.format('%.0f', after[1])}
