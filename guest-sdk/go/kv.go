package kvasm

import (
	"iter"
	"time"
)

// Collection is a set of entries under keys. It exists while it has entries.
type Collection string

// Entry is a value with its metadata. A list without values has only keys.
type Entry struct {
	Key   string
	Value []byte
	// Version increases with each write of the key, and is never reused.
	Version uint64
	// ExpiresAtMs is a Unix time in milliseconds; 0: never.
	ExpiresAtMs int64
	// IsJSON says whether the value is JSON text or bytes.
	IsJSON bool
}

// Get returns a value of either kind. [NotFound]: the entry does not exist.
func (c Collection) Get(key string) ([]byte, error) {
	value, status := kvGet(string(c), key, 0)
	return value, check(status)
}

// Entry returns an entry with its version. [NotFound]: it does not exist.
func (c Collection) Entry(key string) (Entry, error) {
	bytes, status := kvGet(string(c), key, getWithHeader)
	if err := check(status); err != nil {
		return Entry{}, err
	}
	// A header and the value, without the value's length: the rest is the value.
	const header = 24
	if len(bytes) < header {
		return Entry{}, errMalformed
	}
	r := reader{rest: bytes[:header]}
	entry := Entry{Key: key, Version: r.u64(), ExpiresAtMs: int64(r.u64()), IsJSON: r.u32() == formatJSON}
	entry.Value = bytes[header:]
	return entry, nil
}

// SetOption changes how an entry is written.
type SetOption func(*setOptions)

type setOptions struct {
	ttlMs     uint64
	ifVersion *uint64
}

// TTL makes the entry expire. Without it the entry does not, even if it had an expiry before.
func TTL(ttl time.Duration) SetOption {
	return func(o *setOptions) { o.ttlMs = uint64(ttl.Milliseconds()) }
}

// IfVersion writes only if the entry has this version; 0: if it does not exist. Otherwise the error
// is [Conflict].
func IfVersion(version uint64) SetOption {
	return func(o *setOptions) { o.ifVersion = &version }
}

func encodeSet(options []SetOption) []byte {
	var set setOptions
	for _, option := range options {
		option(&set)
	}
	var mask uint32
	var version uint64
	if set.ttlMs != 0 {
		mask |= 1
	}
	if set.ifVersion != nil {
		mask |= 2
		version = *set.ifVersion
	}
	out := putU32(putU32(make([]byte, 0, 24), 24), mask)
	return putU64(putU64(out, set.ttlMs), version)
}

// Set writes bytes.
func (c Collection) Set(key string, value []byte, options ...SetOption) error {
	return check(kvSet(string(c), key, value, formatBytes, encodeSet(options)))
}

// Has reports whether the entry exists.
func (c Collection) Has(key string) (bool, error) {
	status := kvHas(string(c), key)
	return status == 1, check(status)
}

// Delete removes an entry, and reports whether it existed.
func (c Collection) Delete(key string) (bool, error) {
	status := kvDelete(string(c), key, nil)
	return status == 1, check(status)
}

// DeleteIf removes an entry if it has this version. Otherwise the error is [Conflict].
func (c Collection) DeleteIf(key string, version uint64) error {
	return check(kvDelete(string(c), key, encodeDelete(version)))
}

func encodeDelete(version uint64) []byte {
	return putU64(putU32(putU32(make([]byte, 0, 16), 16), 1), version)
}

// Increment adds to an integer, atomically, and returns the sum. An absent entry counts as 0.
func (c Collection) Increment(key string, delta int64) (int64, error) {
	sum, status := kvIncrement(string(c), key, delta)
	return sum, check(status)
}

// Add adds to an integer. In a transaction it reads nothing, so that those who add do not conflict.
func (c Collection) Add(key string, delta int64) error {
	return check(kvAdd(string(c), key, delta))
}

// Update replaces an entry by what change makes of its value, which is nil if the entry does not
// exist, and does so again if another call has written the entry meanwhile: no update is lost.
func (c Collection) Update(key string, change func(value []byte) ([]byte, error)) error {
	for {
		before, err := c.Entry(key)
		if err != nil && !Is(err, NotFound) {
			return err
		}
		after, err := change(before.Value)
		if err != nil {
			return err
		}
		if err = c.Set(key, after, IfVersion(before.Version)); !Is(err, Conflict) {
			return err
		}
	}
}

// ListOptions selects the entries of a list. The zero value lists all keys.
type ListOptions struct {
	// Prefix, Start (inclusive) and End (exclusive) bound the keys, if they are not empty.
	Prefix, Start, End string
	// Values returns the values too.
	Values bool
	// Reverse lists from the last key on.
	Reverse bool
	// PageSize is the number of entries that are read at once; 0: the host's.
	PageSize uint32
}

// List returns the entries in the order of their keys' bytes. It reads page by page.
//
//	for entry, err := range notes.List(kvasm.ListOptions{Values: true}) {
func (c Collection) List(options ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var cursor []byte
		for {
			bytes, status := kvList(string(c), options, cursor)
			if err := check(status); err != nil {
				yield(Entry{}, err)
				return
			}
			entries, next, ok := readPage(bytes, options.Values)
			if !ok {
				yield(Entry{}, errMalformed)
				return
			}
			for _, entry := range entries {
				if !yield(entry, nil) {
					return
				}
			}
			if len(next) == 0 {
				return
			}
			cursor = next
		}
	}
}

func packKeys(collection string, keys []string) []byte {
	packed := putU32(nil, uint32(len(keys)))
	for _, key := range keys {
		packed = putSized(putSized(packed, collection), key)
	}
	return packed
}

// GetMany reads up to 1,000 entries at once. The result has nil for absent ones.
func (c Collection) GetMany(keys ...string) ([]*Entry, error) {
	bytes, status := kvGetMany(packKeys(string(c), keys))
	if err := check(status); err != nil {
		return nil, err
	}
	slots, ok := readSlots(bytes, keys)
	if !ok {
		return nil, errMalformed
	}
	return slots, nil
}

// Batch collects checks and writes that take effect together, or not at all.
type Batch struct {
	checks, ops           []byte
	checksCount, opsCount uint32
}

const (
	opSet         = 0
	opDelete      = 1
	opIncrement   = 2
	opTimerSet    = 3
	opTimerCancel = 4
)

// Len returns the number of checks and operations, of which a batch has at most 1,000.
func (b *Batch) Len() int { return int(b.checksCount + b.opsCount) }

// Check requires that the entry has this version before the batch; 0: that it does not exist.
func (b *Batch) Check(c Collection, key string, version uint64) {
	b.checksCount++
	b.checks = putU64(putSized(putSized(b.checks, string(c)), key), version)
}

func (b *Batch) op(kind uint32, collection, key string) {
	b.opsCount++
	b.ops = putSized(putSized(putU32(b.ops, kind), collection), key)
}

// Set writes bytes. ttl 0: the entry does not expire.
func (b *Batch) Set(c Collection, key string, value []byte, ttl time.Duration) {
	b.set(c, key, formatBytes, value, ttl)
}

func (b *Batch) set(c Collection, key string, format uint32, value []byte, ttl time.Duration) {
	b.op(opSet, string(c), key)
	b.ops = putU64(putU32(b.ops, format), uint64(ttl.Milliseconds()))
	b.ops = putSized(b.ops, string(value))
}

// Delete removes an entry.
func (b *Batch) Delete(c Collection, key string) { b.op(opDelete, string(c), key) }

// Increment adds to an integer.
func (b *Batch) Increment(c Collection, key string, delta int64) {
	b.op(opIncrement, string(c), key)
	b.ops = putU64(b.ops, uint64(delta))
}

func (b *Batch) timerSet(name string, flags uint32, ms int64, payload []byte) {
	b.op(opTimerSet, "", name)
	b.ops = putSized(putU64(putU32(b.ops, flags), uint64(ms)), string(payload))
}

// TimerAfter sets a timer, like the function of this name.
func (b *Batch) TimerAfter(name string, after time.Duration, payload []byte) {
	b.timerSet(name, timerAfter, after.Milliseconds(), payload)
}

// TimerAt sets a timer, like the function of this name.
func (b *Batch) TimerAt(name string, at time.Time, payload []byte) {
	b.timerSet(name, timerAt, at.UnixMilli(), payload)
}

// TimerCancel removes a timer.
func (b *Batch) TimerCancel(name string) { b.op(opTimerCancel, "", name) }

func (b *Batch) packed() []byte {
	packed := append(putU32(nil, b.checksCount), b.checks...)
	return append(putU32(packed, b.opsCount), b.ops...)
}

// Commit applies the batch, and returns a result for each operation. [Conflict]: a check failed.
func (b *Batch) Commit() ([]Applied, error) {
	bytes, status := kvCommit(b.packed())
	if err := check(status); err != nil {
		return nil, err
	}
	applied, ok := readApplied(bytes)
	if !ok {
		return nil, errMalformed
	}
	return applied, nil
}

// Transaction makes a part of a call a transaction: what run writes takes effect together, or not
// at all if it returns an error. It is run again if what it has read has changed, so it must have
// no other effects than on entries and timers.
func Transaction(run func() error) error {
	for {
		if err := check(transactionBegin()); err != nil {
			return err
		}
		failed := run()
		var err error
		if failed == nil {
			err = check(transactionCommit())
		} else {
			err = check(transactionDrop())
		}
		if Is(err, Conflict) {
			continue
		}
		if failed != nil {
			return failed
		}
		return err
	}
}

const (
	timerAt    = 0
	timerAfter = 1
)

// TimerAt calls the handler of timers once, at a time. A timer of the same name is replaced.
func TimerAt(name string, at time.Time, payload []byte) error {
	return check(timerSet(name, timerAt, at.UnixMilli(), payload))
}

// TimerAfter calls the handler of timers once, after a duration.
func TimerAfter(name string, after time.Duration, payload []byte) error {
	return check(timerSet(name, timerAfter, after.Milliseconds(), payload))
}

// TimerCancel removes a timer, and reports whether there was one.
func TimerCancel(name string) (bool, error) {
	status := timerCancel(name)
	return status == 1, check(status)
}
