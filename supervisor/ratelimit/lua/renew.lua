-- These requests still run: their leases are prolonged, or made again where Redis has lost them.
--
-- KEYS      the leases of one account
-- ARGV      the length of a lease in us, then the leases' names
-- Answers   one text of integers: how many, the time in us
local function integers(numbers)  -- tostring would round
    local words = {}
    for index, number in ipairs(numbers) do
        words[index] = string.format('%.0f', number)
    end
    return table.concat(words, ' ')
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local length = tonumber(ARGV[1])

-- First what needs memory: when there is none, Redis refuses a script only until it has written something.
for index = 2, #ARGV do
    redis.call('ZADD', KEYS[1], integers({now + length}), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', integers({now}))
redis.call('PEXPIRE', KEYS[1], integers({math.floor(length / 1000) + 1000}))
return integers({#ARGV - 1, now})
