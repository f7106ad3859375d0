-- What every script begins with: the time, and how an account is written.
--
-- A time, a TAT and a cost are each a pair: whole us, and a part in 1/quota us (0 <= part < quota). All are integers
-- below 2^53, which doubles hold exactly: us is below LAST + 2^50, part below 2 * 10^9. Nothing is ever divided but
-- where the limits of an account have changed (`carried`).
--
-- An account is one text: for each limit its name, quota and window in us, and its TAT.
local LAST = 2^52  -- the year 2112: no debt is kept that reaches further

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function text(number)  -- tostring would round
    return string.format('%.0f', number)
end

local function read(key)
    local account = {}
    local words = string.gmatch(redis.call('GET', key) or '', '%S+')
    for name in words do
        account[name] = {
            quota = tonumber(words()), window = tonumber(words()), us = tonumber(words()), part = tonumber(words())
        }
    end
    return account
end

local function write(key, limits)
    local words, latest = {}, now
    for _, one in ipairs(limits) do
        table.insert(words, one.name)
        for _, number in ipairs({one.quota, one.window, one.us, one.part}) do
            table.insert(words, text(number))
        end
        latest = math.max(latest, one.us)
    end
    -- Forgotten when every bucket is full again: an absent one is full.
    redis.call('SET', key, table.concat(words, ' '), 'PX', text(math.floor((latest - now) / 1000) + 1000))
end

-- The TAT of a limit that was kept as `old`. Under another rate what was used stays used, in units, to the us.
local function carried(old, quota, window)
    if not old then
        return 0, 0
    end
    if old.quota == quota and old.window == window then
        return old.us, old.part
    end
    local used = old.us - now + old.part / old.quota
    if used <= 0 then
        return 0, 0
    end
    return math.min(LAST, now + math.ceil(used * old.quota / old.window * window / quota)), 0
end

local function sum(us, part, more_us, more_part, quota)
    us, part = us + more_us, part + more_part
    if part >= quota then
        us, part = us + 1, part - quota
    end
    return us, part
end

