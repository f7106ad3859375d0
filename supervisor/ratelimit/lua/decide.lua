-- May this request pass? Checks every limit of every account it concerns, and charges all of them or none.
--
-- KEYS      two for each account: its TATs, its leases
-- ARGV      the lease's name, its length in us, then for each account one text:
--           how many may run at once (-1: any number), and for each limit: name, quota, window in us, and its cost
-- Answers   one text of integers: 1 or 0, the time in us, and for each account how many run, and its TATs, as they are now
local admitted = true
local accounts = {}

for index = 1, #KEYS, 2 do
    local words = string.gmatch(ARGV[2 + (index + 1) / 2], '%S+')
    local concurrent = tonumber(words())
    local running = 0
    if concurrent >= 0 then
        running = redis.call('ZCOUNT', KEYS[index + 1], '(' .. text(now), '+inf')
        admitted = admitted and running < concurrent
    end
    local kept = read(KEYS[index])
    local before, after = {}, {}
    for name in words do
        local quota, window = tonumber(words()), tonumber(words())
        local us, part = carried(kept[name], quota, window)
        table.insert(before, {us = us, part = part})
        if us < now then
            us, part = now, 0
        end
        us, part = sum(us, part, tonumber(words()), tonumber(words()), quota)
        if us > now + window or (us == now + window and part > 0) then
            admitted = false
        end
        table.insert(after, {name = name, quota = quota, window = window, us = math.min(us, LAST), part = part})
    end
    table.insert(accounts, {running = running, before = before, after = after})
end

local answer = {admitted and '1' or '0', text(now)}
for index, account in ipairs(accounts) do
    local tats, leases = KEYS[2 * index - 1], KEYS[2 * index]
    if admitted then
        if #account.after > 0 then
            write(tats, account.after)
        end
        redis.call('ZADD', leases, text(now + tonumber(ARGV[2])), ARGV[1])
        redis.call('ZREMRANGEBYSCORE', leases, '-inf', text(now))
        redis.call('PEXPIRE', leases, text(math.floor(tonumber(ARGV[2]) / 1000) + 1000))
        account.running = account.running + 1
    end
    table.insert(answer, text(account.running))
    for _, one in ipairs(admitted and account.after or account.before) do
        table.insert(answer, text(one.us))
        table.insert(answer, text(one.part))
    end
end
return table.concat(answer, ' ')
