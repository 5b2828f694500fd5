//! What Redis is asked to do, each in one step. Each can be sent twice: a response may be lost.
//!
//! A script runs as a whole, and no other command in between. Its text is the same for all
//! accounts, with keys and values as arguments, so nothing that a user wrote becomes a part of it.

/// The time in ms, whether there is a record, and its fields.
///
/// Both in one step, so that the moments can be counted down by the clock that they were written
/// by.
pub(super) const LOAD: &str = "
local time = redis.call('TIME')
local fields = redis.call('HMGET', KEYS[1], 'form', 'family', 'revision', 'mark_count', 'mark_settles',
    'not_before', 'expires', 'cleared', 'record')
return {string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), redis.call('EXISTS', KEYS[1]),
    unpack(fields)}";

/// ARGV: owner, lease in ms. Returns 1, or who holds it.
///
/// For the holder itself it is an extension, so a lock whose response was lost can be asked for
/// again.
pub(super) const LOCK: &str = "
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// ARGV: owner, lease in ms. Returns 0 if the lease is lost.
pub(super) const EXTEND: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// ARGV: owner.
///
/// Only the owner's: a lease that was lost may be another's by now.
pub(super) const UNLOCK: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

/// KEYS: lock, record. ARGV: owner, lease in ms, number of the save, whether a record is expected, its family and
/// revision; then the new fields in the order in which they are written, times as spans in ms, and what is absent empty.
///
/// Numbers are compared as text: Lua's would round a version.
///
/// What it says: `saved`; `lost`, if the lock is another's; `conflict`, if another version is
/// stored; `overtaken`, if a later save of the same lock has come before. The same save again is
/// `saved`, by its number.
///
/// It extends the lease. The record is written at once, all fields of it, so it is whole whatever Redis refuses: a
/// script that breaks off undoes nothing.
pub(super) const SAVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local found = redis.call('HMGET', KEYS[2], 'family', 'revision', 'saved_by', 'saves')
local matches = redis.call('EXISTS', KEYS[2]) == 0
if ARGV[4] == '1' then matches = found[1] == ARGV[5] and found[2] == ARGV[6] end
if found[3] == ARGV[1] then
    local saves = tonumber(found[4])
    if saves == tonumber(ARGV[3]) then return 'saved' end
    if saves > tonumber(ARGV[3]) then return 'overtaken' end
    matches = matches or (found[1] == ARGV[8] and found[2] == ARGV[9])
end
if not matches then return 'conflict' end
local time = redis.call('TIME')
local function moment(span)
    if span == '' then return '' end
    return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + span)
end
redis.call('HSET', KEYS[2], 'saved_by', ARGV[1], 'saves', ARGV[3], 'form', ARGV[7], 'family', ARGV[8],
    'revision', ARGV[9], 'mark_count', ARGV[10], 'mark_settles', moment(ARGV[11]), 'not_before', moment(ARGV[12]),
    'expires', moment(ARGV[13]), 'cleared', ARGV[14], 'record', ARGV[15])
return 'saved'";

/// KEYS: lock, record, where to. ARGV: owner, for how many ms it is kept there.
///
/// Nothing there to be moved is as good as moved.
pub(super) const QUARANTINE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('RENAME', KEYS[2], KEYS[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
end
return 'saved'";
