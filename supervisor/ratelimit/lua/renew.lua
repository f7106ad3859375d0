-- These requests still run: their leases are prolonged, or made again where Redis has lost them.
--
-- KEYS      the leases of one account
-- ARGV      the length of a lease in us, then the leases' names
-- Answers   one text of integers: how many, the time in us
local length = tonumber(ARGV[1])

-- First what needs memory: when there is none, Redis refuses a script only until it has written something.
for index = 2, #ARGV do
    redis.call('ZADD', KEYS[1], text(now + length), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
redis.call('PEXPIRE', KEYS[1], text(math.floor(length / 1000) + 1000))
return text(#ARGV - 1) .. ' ' .. text(now)
