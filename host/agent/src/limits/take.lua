-- Takes from limits, or charges them: all of it or nothing, by this server's clock.
-- KEYS: the limits. ARGV: 'take' or 'charge', then for each key its cost and its period in nanoseconds; a cost below zero
-- gives back. A limit is kept as "BACKLOG AT": nanoseconds of backlog at a time in microseconds.
-- Returns the place of the limit that does not fit for longest (0: all fit) and its backlog, or else the first limit's new backlog.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local must_fit = ARGV[1] == 'take'

local function keep(key, backlog)
  local drained = math.ceil(backlog / 1000000) + 1000
  redis.call('SET', key, string.format('%.0f %.0f', backlog, now), 'PX', string.format('%.0f', drained))
end

local after = {}
local refused, refused_backlog, longest = 0, 0, 0
for i, key in ipairs(KEYS) do
  local cost, period = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local backlog = 0
  local kept = redis.call('GET', key)
  if kept then
    local held, at = string.match(kept, '^(%d+) (%d+)$')
    if held then
      backlog = math.max(0, tonumber(held) - math.max(0, now - tonumber(at)) * 1000)
      -- The clock was set back: the backlog drains from now on, also if nothing is taken.
      if tonumber(at) > now and backlog > 0 then
        keep(key, backlog)
      end
    end
  end
  local wait = backlog + cost - period
  if must_fit and wait > longest then
    refused, refused_backlog, longest = i, backlog, wait
  end
  after[i] = math.max(0, backlog + cost)
end
if refused > 0 then
  return {refused, string.format('%.0f', refused_backlog)}
end
for i, key in ipairs(KEYS) do
  if after[i] > 0 then
    keep(key, after[i])
  else
    redis.call('DEL', key)
  end
end
return {0, string.format('%.0f', after[1])}
