-- A request is over: its lease is given back, and what it was charged is corrected.
-- Its lease is also the proof that this was not done before, so it may be asked any number of times.
--
-- KEYS      two for each account: its TATs, its leases
-- ARGV      the lease's name, then for each account one text, for each limit: name, quota, window in us, and what to
--           add, which may be negative (its part never is)
-- Answers   one text of integers: 1 or 0 (no such lease), the time in us
local known = false

for index = 2, #KEYS, 2 do
    known = redis.call('ZREM', KEYS[index], ARGV[1]) == 1 or known
end
if not known then
    return '0 ' .. text(now)
end
for index = 1, #KEYS, 2 do
    local words = string.gmatch(ARGV[1 + (index + 1) / 2], '%S+')
    local kept = read(KEYS[index])
    local limits, changed = {}, false
    for name in words do
        local quota, window = tonumber(words()), tonumber(words())
        local more_us, more_part = tonumber(words()), tonumber(words())
        local us, part = carried(kept[name], quota, window)
        if more_us ~= 0 or more_part ~= 0 then
            changed = true
            if more_us >= 0 and us < now then  -- taken now, from a full bucket
                us, part = now, 0
            end
            us, part = sum(us, part, more_us, more_part, quota)
            if us < 0 then  -- given to a bucket that is not there: as full as any
                us, part = 0, 0
            end
        end
        table.insert(limits, {name = name, quota = quota, window = window, us = math.min(us, LAST), part = part})
    end
    if changed then
        write(KEYS[index], limits)
    end
end
return '1 ' .. text(now)
