-- May this request pass? Checks every limit of every account it concerns, and charges all of them or none.
--
-- KEYS      two for each account: its TATs, its leases
-- ARGV      the lease's name, its length in us, then for each account one text of integers:
--           how many may run at once (-1: any number), and for each limit: quota, window in us, and its cost
-- Answers   one text of integers: 1 or 0, the time in us, and for each account how many run, and its TATs, as they are now
--
-- A time, a TAT and a cost are each a pair: whole us, and a part in 1/quota us (0 <= part < quota). All are integers
-- below 2^53, which doubles hold exactly: us is below LAST + 2^50, part below 2 * 10^9. Nothing is ever divided here.
local LAST = 2^52  -- the year 2112: no debt is kept that reaches further

local function integers(numbers)  -- tostring would round
    local words = {}
    for index, number in ipairs(numbers) do
        words[index] = string.format('%.0f', number)
    end
    return table.concat(words, ' ')
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local admitted = true
local accounts = {}

for index = 1, #KEYS, 2 do
    local words = string.gmatch(ARGV[2 + (index + 1) / 2], '%S+')
    local concurrent = tonumber(words())
    local running = 0
    if concurrent >= 0 then
        running = redis.call('ZCOUNT', KEYS[index + 1], '(' .. integers({now}), '+inf')
        admitted = admitted and running < concurrent
    end
    local kept = string.gmatch(redis.call('GET', KEYS[index]) or '', '%S+')
    local before, after, latest = {}, {}, now
    for quota in words do
        quota = tonumber(quota)
        local window, cost_us, cost_part = tonumber(words()), tonumber(words()), tonumber(words())
        local us, part = tonumber(kept() or 0), tonumber(kept() or 0)
        table.insert(before, us)
        table.insert(before, part)
        if us < now then
            us, part = now, 0
        end
        us, part = us + cost_us, part + cost_part
        if part >= quota then
            us, part = us + 1, part - quota
        end
        if us > now + window or (us == now + window and part > 0) then
            admitted = false
        end
        us = math.min(us, LAST)
        table.insert(after, us)
        table.insert(after, part)
        latest = math.max(latest, us)
    end
    table.insert(accounts, {running = running, before = before, after = after, latest = latest})
end

local answer = {admitted and 1 or 0, now}
for index, account in ipairs(accounts) do
    local tats, leases = KEYS[2 * index - 1], KEYS[2 * index]
    if admitted then
        if #account.after > 0 then  -- forgotten when every bucket is full again: an absent one is full
            local age_ms = math.floor((account.latest - now) / 1000) + 1000
            redis.call('SET', tats, integers(account.after), 'PX', integers({age_ms}))
        end
        local ends = now + tonumber(ARGV[2])
        redis.call('ZADD', leases, integers({ends}), ARGV[1])
        redis.call('ZREMRANGEBYSCORE', leases, '-inf', integers({now}))
        redis.call('PEXPIRE', leases, integers({math.floor(tonumber(ARGV[2]) / 1000) + 1000}))
    end
    table.insert(answer, account.running + answer[1])
    for _, number in ipairs(admitted and account.after or account.before) do
        table.insert(answer, number)
    end
end
return integers(answer)
