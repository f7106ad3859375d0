-- A request is over: its lease is given back, and what it was charged is corrected.
-- Its lease is also the proof that this was not done before, so it may be asked any number of times.
--
-- KEYS      two for each account: its TATs, its leases
-- ARGV      the lease's name, then for each account one text of integers, for each limit: quota, and what to add
-- Answers   one text of integers: 1 or 0 (no such lease), the time in us
--
-- Numbers as in decide.lua; what to add may be negative, its part never is.
local LAST = 2^52

local function integers(numbers)  -- tostring would round
    local words = {}
    for index, number in ipairs(numbers) do
        words[index] = string.format('%.0f', number)
    end
    return table.concat(words, ' ')
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local known = false

for index = 2, #KEYS, 2 do
    known = redis.call('ZREM', KEYS[index], ARGV[1]) == 1 or known
end
if not known then
    return integers({0, now})
end
for index = 1, #KEYS, 2 do
    local words = string.gmatch(ARGV[1 + (index + 1) / 2], '%S+')
    local kept = string.gmatch(redis.call('GET', KEYS[index]) or '', '%S+')
    local tats, latest, changed = {}, now, false
    for quota in words do
        quota = tonumber(quota)
        local more_us, more_part = tonumber(words()), tonumber(words())
        local us, part = tonumber(kept() or 0), tonumber(kept() or 0)
        if more_us ~= 0 or more_part ~= 0 then
            changed = true
            if more_us >= 0 and us < now then  -- taken now, from a full bucket
                us, part = now, 0
            end
            us, part = us + more_us, part + more_part
            if part >= quota then
                us, part = us + 1, part - quota
            end
            if us < 0 then  -- given to a bucket that is not there: as full as any
                us, part = 0, 0
            end
        end
        us = math.min(us, LAST)
        table.insert(tats, us)
        table.insert(tats, part)
        latest = math.max(latest, us)
    end
    if changed then
        redis.call('SET', KEYS[index], integers(tats), 'PX', integers({math.floor((latest - now) / 1000) + 1000}))
    end
end
return integers({1, now})
