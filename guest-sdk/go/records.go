package kvasm

import "encoding/binary"

// The packed records of the ABI: integers are little-endian, texts follow their length, and there
// is no padding.

func putU32(out []byte, n uint32) []byte { return binary.LittleEndian.AppendUint32(out, n) }
func putU64(out []byte, n uint64) []byte { return binary.LittleEndian.AppendUint64(out, n) }

func putSized(out []byte, text string) []byte {
	return append(putU32(out, uint32(len(text))), text...)
}

func putBool(out []byte, set bool) []byte {
	if set {
		return putU32(out, 1)
	}
	return putU32(out, 0)
}

// reader takes records off the front of bytes. Past the end it returns zeros, and malformed is set.
type reader struct {
	rest      []byte
	malformed bool
}

func (r *reader) take(length uint32) []byte {
	if uint64(length) > uint64(len(r.rest)) {
		r.malformed = true
		r.rest = nil
		return nil
	}
	taken := r.rest[:length:length]
	r.rest = r.rest[length:]
	return taken
}

func (r *reader) u32() uint32 {
	if bytes := r.take(4); bytes != nil {
		return binary.LittleEndian.Uint32(bytes)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if bytes := r.take(8); bytes != nil {
		return binary.LittleEndian.Uint64(bytes)
	}
	return 0
}

func (r *reader) sized() []byte { return r.take(r.u32()) }

// entry reads the header and the value of an entry.
func (r *reader) entry(key string) Entry {
	entry := Entry{Key: key, Version: r.u64(), ExpiresAtMs: int64(r.u64()), IsJSON: r.u32() == formatJSON}
	r.u32()
	entry.Value = r.sized()
	return entry
}

// page reads a page of a list, and its cursor, which is empty at the end of the list.
func readPage(bytes []byte, values bool) (entries []Entry, cursor []byte, ok bool) {
	r := reader{rest: bytes}
	count := r.u32()
	cursor = r.sized()
	for range count {
		key := string(r.sized())
		if values {
			entries = append(entries, r.entry(key))
		} else {
			entries = append(entries, Entry{Key: key})
		}
		if r.malformed {
			break
		}
	}
	return entries, cursor, !r.malformed && len(r.rest) == 0
}

// readSlots reads a slot for each key: nil for an absent entry.
func readSlots(bytes []byte, keys []string) (slots []*Entry, ok bool) {
	r := reader{rest: bytes}
	count := r.u32()
	for i := range count {
		if r.malformed {
			break
		}
		if r.u32() == 0 {
			slots = append(slots, nil)
			continue
		}
		key := ""
		if int(i) < len(keys) {
			key = keys[i]
		}
		entry := r.entry(key)
		slots = append(slots, &entry)
	}
	return slots, !r.malformed && len(r.rest) == 0
}

// Applied is the result of one operation of a batch.
type Applied struct {
	// Result is the new version of a set and an increment; of a delete and of a cancelled timer, 1
	// if there was one.
	Result uint64
	// Value is the new value of an increment.
	Value int64
}

func readApplied(bytes []byte) (applied []Applied, ok bool) {
	r := reader{rest: bytes}
	for range r.u32() {
		applied = append(applied, Applied{Result: r.u64(), Value: int64(r.u64())})
		if r.malformed {
			break
		}
	}
	return applied, !r.malformed && len(r.rest) == 0
}

// splitFrame splits a frame into its head and its body.
func splitFrame(frame []byte) (head, body []byte, ok bool) {
	r := reader{rest: frame}
	head = r.sized()
	return head, r.rest, !r.malformed
}

func joinFrame(head, body []byte) []byte {
	frame := make([]byte, 0, 4+len(head)+len(body))
	return append(append(putU32(frame, uint32(len(head))), head...), body...)
}
